"""ms-swift's `swift sft` on batches of owl-stream, with a tiny Qwen2.5-VL.

`python -m tests.trainers.swift_sft DIRECTORY URL URL URL URL` is given servers for that model, for one with the real
vocabulary, and for mPLUG-Owl3 of either release. It runs the command itself: on two ranks until SIGKILL strikes both,
in one process until SIGKILL strikes it, then on two ranks to the end; and undisturbed. The rest runs in forks of this
process: LoRA the same way, agreement with a plain loop, what is refused, tokens, mPLUG-Owl3's interface. Last comes the
command of docs/trainers.md. What was trained on is left in DIRECTORY.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from swift.model import get_processor
from swift.pipelines import pretrain_main, sft_main
from swift.template import TEMPLATE_MAPPING, get_template
from swift.utils.utils import import_external_file

from owl_client import OwlStreamDataset
from owl_stream.errors import ConfigError
from tests.support.server import ROOT
from tests.support.tars import read_conversations
from tests.trainers.family import ended_by, fork, in_ranks
from tests.trainers.model import TinyOwl3, steps_of
from tests.trainers.snippets import DOCUMENT

PLUGINS = (ROOT / "client" / "owl_client" / "swift.py", ROOT / "tests" / "trainers" / "swift_plugin.py")
EPOCHS, ROWS, KILLS = 2, 2, ("0 3", "1 2")
CPU = ["--use_cpu", "true", "--torch_dtype", "float32", "--fp16", "false", "--bf16", "false"]
TUNED = ["--tuner_type", "full", "--freeze_vit", "false", "--freeze_aligner", "false"]


def arguments(url: str, directory: Path, output: str, *more: str) -> list[str]:
    """Of `swift sft`: good ones, then `more`, of which the later ones win."""
    return [
        *("--external_plugins", *map(str, PLUGINS)),
        *("--dataset", url.replace("http", "owl", 1) + "/train"),
        *("--model", str(directory / "model"), "--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl"),
        *("--output_dir", str(directory / output), "--add_version", "false"),
        *("--per_device_train_batch_size", str(ROWS), "--per_device_eval_batch_size", str(ROWS)),
        *("--num_train_epochs", str(EPOCHS), "--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-4"),
        *("--max_grad_norm", "1e9", "--attn_impl", "sdpa", "--report_to", "none", "--check_model", "false"),
        *(*CPU, *(["--ddp_backend", "gloo"] if "WORLD_SIZE" in os.environ else []), *more),
    ]


def newest(output: Path) -> list[str]:
    """The argument with which swift goes on, if there is a checkpoint."""
    found = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    return ["--resume_from_checkpoint", str(found[-1])] if found else []


def command(url: str, directory: Path, name: str, output: str, ranks: int = 1, kill_at: str | None = None) -> int:
    """Run `swift sft`, from the newest checkpoint if there is one; returns its exit code."""
    environ = {**os.environ, "OWL_TEST_ROWS": str(directory / name)}
    more = [*TUNED, *newest(directory / output)]
    if ranks > 1:
        environ["NPROC_PER_NODE"], more = str(ranks), [*more, "--ddp_backend", "gloo"]
    if kill_at:
        environ["OWL_TEST_KILL_AT"] = kill_at
    swift = [sys.executable, "-m", "swift.cli.main", "sft"]
    return subprocess.run([*swift, *arguments(url, directory, output, *more)], env=environ, check=False).returncode


def tune_lora(url: str, directory: Path) -> None:
    """LoRA is swift's default. Killed on two ranks, it goes on in one."""

    def run(output: str) -> Any:
        more = ["--lora_dropout", "0", "--num_train_epochs", "1"]
        return lambda: sft_main(arguments(url, directory, output, *more, *newest(directory / output)))

    os.environ["OWL_TEST_ROWS"] = str(directory / "lora-killed")
    os.environ["OWL_TEST_KILL_AT"] = KILLS[0]
    assert in_ranks(run("lora")) == [-signal.SIGKILL] * 2
    del os.environ["OWL_TEST_KILL_AT"]
    for name, output in (("lora-resumed", "lora"), ("lora-undisturbed", "lora-others")):
        os.environ["OWL_TEST_ROWS"] = str(directory / name)
        assert ended_by(fork(run(output))) == 0


def agree(url: str, directory: Path) -> None:
    """Losses and gradients of the first steps are the plain loop's, and the evaluation is a mean over tokens."""
    address = url.replace("http", "owl", 1) + "/train"
    evaluation = ["--val_dataset", address, "--eval_strategy", "steps", "--eval_steps", "2"]
    steps = ["--max_steps", "2", "--learning_rate", "0", "--save_strategy", "no"]
    evaluation += ["--eval_metric", "acc"]
    history = sft_main(arguments(url, directory, "agreed", *TUNED, *steps, *evaluation))["log_history"]
    logged = [entry for entry in history if "loss" in entry]
    assert all(entry["owl/tokens_per_s"] > 0 and 0 <= entry["token_acc"] <= 1 for entry in logged)
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(directory / "model").train()
    losses, norms, loss = [], [], 0.0
    for batch in OwlStreamDataset(url, micro_batch_size=ROWS):
        part = model(**batch).loss * batch.meta.loss_weight
        part.backward()
        loss += part.item()
        if batch.meta.state["micro"] == 0:
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9).item())
            losses, loss = [*losses, loss], 0.0
            model.zero_grad()
            if len(losses) == 2:
                break
    assert [entry["loss"] for entry in logged] == pytest.approx(losses, rel=1e-4)
    assert [entry["grad_norm"] for entry in logged] == pytest.approx(norms, rel=1e-4)
    total = tokens = right = 0.0
    with torch.no_grad():
        for batch in OwlStreamDataset(url, micro_batch_size=ROWS, evaluate=True):
            if batch.meta.supervised_tokens:
                output, labels = model.eval()(**batch), batch["labels"][:, 1:]
                total += output.loss.item() * batch.meta.supervised_tokens
                right += int((output.logits[:, :-1].argmax(-1) == labels).sum())
                tokens += batch.meta.supervised_tokens
    assert right
    (found,) = [entry for entry in history if "eval_loss" in entry]
    assert found["eval_loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert found["eval_token_acc"] == pytest.approx(right / tokens, rel=1e-4)


def be_refused(url: str, directory: Path) -> None:
    """What would be ignored, or tear batches, each with the remedy."""
    ours = url.replace("http", "owl", 1) + "/train"
    other = directory / "others.jsonl"
    other.write_text(json.dumps({"messages": [{"role": "user", "content": "?"}]}) + "\n")
    for wrong, message in (
        (["--dataset", ours, ours], "expected one owl:// address"),
        (["--dataset", ours, str(other)], "expected one owl:// address"),
        (["--val_dataset", str(other)], "list all shards under one data set"),
        (["--dataset", "owl://somewhere"], "expected owl://host:port/name"),
        (["--dataset", f"{ours}#100"], "expected owl://host:port/name"),
        (["--gradient_accumulation_steps", "3"], r"expected \d, .* got 3; leave it out, and it is set"),
        (["--packing", "true", "--attn_impl", "flash_attn"], "--packing: expected False"),
        (["--padding_free", "true", "--attn_impl", "flash_attn"], "--padding_free: expected False"),
        (["--streaming", "true", "--max_steps", "4"], "--streaming: expected False"),
        (["--split_dataset_ratio", "0.1"], "name it by --val_dataset owl://"),
        (["--max_length", "512"], "--max_length: expected none .* the server's setting `max_length`"),
        (["--truncation_strategy", "left"], "`on_too_long`"),
        (["--max_pixels", "50176"], "the size of pictures is the server's"),
        (["--loss_scale", "last_round"], "the server's setting `train_on`"),
        (["--loss_type", "cross_entropy"], "--loss_type: expected None"),
        (["--enable_dft_loss", "true"], "--enable_dft_loss: expected False"),
        (["--enable_channel_loss", "true"], "which channel"),
        (["--sequence_parallel_size", "2"], "cuts rows along their length"),
        (["--dataset_shuffle", "false"], "the server's setting `shuffle`"),
        (["--train_dataloader_shuffle", "false"], "the server's setting `shuffle`"),
        (["--data_seed", "7"], "the server's setting `seed`"),
        (["--group_by_length", "true"], "rows of like lengths"),
        (["--system", "Be brief."], "put it into the samples"),
        (["--tuner_type", "adalora"], r"--max_steps: expected \d+ for adalora"),
        (["--task_type", "seq_cls", "--num_labels", "2"], "owl:// is for `swift sft`"),
    ):
        with pytest.raises(ConfigError, match=message):
            sft_main(arguments(url, directory, "refused", *wrong))
    with pytest.raises(ConfigError, match=r"owl:// is for `swift sft`.* got PretrainArguments"):
        pretrain_main(arguments(url, directory, "refused"))
    for wrong, message in (
        (["--dataloader_drop_last", "true"], "expected dataloader_drop_last=False"),
        (["--accelerator_config", '{"split_batches": true}'], "expected split_batches=False"),
    ):
        with pytest.raises(ConfigError, match=message):
            sft_main(arguments(url, directory, "refused", *wrong))


def leave_others_alone(_: str, directory: Path) -> None:
    """With another data set, what is trained is the same with the plugin and without."""
    lines = [{"messages": [turn("user", f"What is {n}?"), turn("assistant", f"{n}, {'so ' * n}.")]} for n in range(8)]
    path = directory / "ordinary.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = ["--dataset", str(path), *TUNED, "--max_steps", "2", "--save_strategy", "no", "--max_length", "512"]

    def losses(output: str, *plugins: Path) -> None:
        chosen = ["--external_plugins", *map(str, plugins)]
        history = sft_main(arguments("", directory, output, *more, *chosen))["log_history"]
        found = [(entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry]
        (directory / f"{output}.json").write_text(json.dumps(found))

    def both() -> None:
        losses("with", *PLUGINS)
        assert str(PLUGINS[0].parent) not in sys.path, "this file's folder has a module `lightning`"

    assert ended_by(fork(both)) == 0
    assert ended_by(fork(lambda: losses("without", PLUGINS[1]))) == 0
    found = (directory / "with.json").read_text()
    assert found == (directory / "without.json").read_text() != "[]"


def turn(role: str, content: str) -> dict[str, str]:
    """A message."""
    return {"role": role, "content": content}


def resume_weights(url: str, directory: Path) -> None:
    """With --resume_only_model the data goes on; with --ignore_data_skip too it begins anew. Also behind workers."""
    steps = OwlStreamDataset(url, micro_batch_size=ROWS).steps_per_epoch
    begun = (EPOCHS * steps - 3) // 2 * 2
    found = directory / "others" / f"checkpoint-{begun}"
    more = [*TUNED, "--resume_from_checkpoint", str(found), "--resume_only_model", "true", "--save_strategy", "no"]
    more += ["--dataloader_num_workers", "2"]
    for name, also in (
        ("weights", ["--max_steps", str(EPOCHS * steps)]),
        ("weights-anew", ["--ignore_data_skip", "true", "--max_steps", "2"]),
    ):
        os.environ["OWL_TEST_ROWS"] = str(directory / name)
        run = arguments(url, directory, "weights", *more, *also)
        assert ended_by(fork(lambda: sft_main(run))) == 0  # noqa: B023
    undisturbed = steps_of(directory / "undisturbed")
    went_on, anew = steps_of(directory / "weights"), steps_of(directory / "weights-anew")
    assert sorted(went_on) == sorted(undisturbed)[begun:]
    assert sorted(anew) == [(0, 0), (0, 1)]
    for run in (went_on, anew):
        assert run == {step: undisturbed[step] for step in run}


def compare_tokens(url: str, directory: Path) -> None:
    """Ids, labels and grids of every row are those that swift's template makes of the sample."""
    import_external_file(str(PLUGINS[1]))
    os.environ |= {"MIN_PIXELS": str(28 * 28), "MAX_PIXELS": str(4 * 28 * 28)}  # as on the server
    processor = get_processor(str(directory / "words" / "model"), model_type="qwen2_5_vl")
    template = get_template(processor, template_type="qwen2_5_vl")
    template.set_mode("train")
    template.image_token_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")  # its own is Qwen's
    shards = map(Path, json.loads((directory / "shards.json").read_text()))
    samples, compared, pictures = {shard.name: read_conversations(shard) for shard in shards}, 0, 0
    for batch in OwlStreamDataset(url, micro_batch_size=ROWS, evaluate=True):
        grids = iter(batch.get("image_grid_thw", ()))
        for b, row in enumerate(batch.meta.rows):
            if row.status != "ok" or row.key not in samples[Path(row.shard).name]:
                break  # a filler, or a row with a video, whose pictures lie elsewhere
            messages, images = samples[Path(row.shard).name][row.key]
            turns = [turn(each["role"], each["content"].replace("<|image|>", "<image>")) for each in messages]
            expected = template.encode({"messages": turns, "images": [image.convert("RGB") for image in images]})
            length = int(batch["attention_mask"][b].sum())
            assert batch["input_ids"][b, :length].tolist() == expected["input_ids"], row.key
            assert batch["labels"][b, :length].tolist() == expected["labels"], row.key
            for grid in expected.get("image_grid_thw", ()):
                assert torch.equal(next(grids), grid), row.key
            compared, pictures = compared + 1, pictures + len(images)
    assert compared == sum(map(len, samples.values()))
    assert pictures


class Owl3(torch.nn.Module):
    """Tiny Owl with the released model's interface, as swift calls it: embeddings of crops in place of crops."""

    device = torch.device("cpu")

    def __init__(self, layout: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.owl = TinyOwl3(512, layout, hidden=16, layers=2, heads=2, hyper_layers=(1,))
        self.seen: list[int] = []

    def forward_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[crops, 3, S, S] -> [crops, n, hidden]."""
        embeds: torch.Tensor = self.owl.vision(pixel_values)
        return embeds

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        image_embeds: torch.Tensor | None = None,
        media_offset: Any = None,
    ) -> Any:
        """The loss, with the vision tower's answer given."""
        self.seen.append(0 if image_embeds is None else len(image_embeds))
        with _given(self.owl, image_embeds):
            return self.owl(input_ids, attention_mask, labels, media_offset, image_embeds)


@contextmanager
def _given(owl: Any, image_embeds: torch.Tensor | None) -> Iterator[None]:
    tower = owl.vision.forward
    owl.vision.forward = lambda _: image_embeds
    try:
        yield
    finally:
        owl.vision.forward = tower


def call_owl3(url: str, layout: str) -> None:
    """Through swift's hook, with its template's class: the losses are those of the model on the batches as they are."""
    plugin = import_external_file(str(PLUGINS[0]))
    name = "mplug_owl3" if layout == "owl3-240728" else "mplug_owl3_241101"
    template = object.__new__(TEMPLATE_MAPPING[name].template_cls)
    template._handles, template._deepspeed_initialize = [], None
    model, pictures, texts = Owl3(layout), 0, 0
    former = template._post_encode
    for batch in OwlStreamDataset(url, micro_batch_size=ROWS):
        expected = model.owl(**batch).loss
        template.register_post_encode_hook([model])
        with plugin.whole_batches(template):
            found = model(**batch).loss
        template.remove_post_encode_hook()
        assert torch.equal(found, expected)
        assert model.seen[-1] == (len(batch["pixel_values"]) if "pixel_values" in batch else 0) == batch.meta.units
        pictures, texts = pictures + bool(model.seen[-1]), texts + (not model.seen[-1])
    assert pictures
    assert texts
    assert template._post_encode == former


def run_documented(url: str, directory: Path) -> None:
    """The command of docs/trainers.md, with this machine's model and servers; then once more from its checkpoint."""
    place = directory / "documented"
    place.mkdir()
    section = DOCUMENT.read_text().partition("\n## ms-swift\n")[2].partition("\n## ")[0]
    (script,) = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    script = script.replace("owl://loader:8000/val", "owl://loader:8000/train")
    script = script.replace("owl://loader:8000", url.replace("http", "owl", 1))
    script = script.replace("Qwen/Qwen2.5-VL-7B-Instruct", str(directory / "model"))
    assert "NPROC_PER_NODE=8" in script
    script = script.replace("NPROC_PER_NODE=8 ", "").replace('"$PLUGIN"', f'"$PLUGIN" {PLUGINS[1]}')
    here = ["--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl", "--check_model", "false", *CPU]
    here += ["--report_to", "none"]
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
    for more in ([], ["--resume_from_checkpoint", "checkpoints/checkpoint-2"]):
        swift = f'swift() {{ python -m swift.cli.main "$@" {shlex.join([*here, *more])}; }}\n'
        text = python + swift + script.replace("--save_steps 100", "--save_steps 2")
        subprocess.run(["bash", "-euc", text], cwd=place, check=True)
        steps = OwlStreamDataset(url, micro_batch_size=ROWS).steps_per_epoch
        state = json.loads((place / "checkpoints" / f"checkpoint-{steps}" / "trainer_state.json").read_text())
        assert any("eval_loss" in entry for entry in state["log_history"])


def main(directory: Path, url: str, words: str, *owls: str) -> None:
    """All runs."""

    def run(*how: Any, **options: Any) -> int:
        return command(url, directory, *how, **options)

    assert run("killed", "checkpoints", ranks=2, kill_at=KILLS[0]) != 0
    assert run("killed-again", "checkpoints", kill_at=KILLS[1]) != 0
    assert run("resumed", "checkpoints", ranks=2) == 0
    assert run("undisturbed", "others") == 0
    for work in (tune_lora, resume_weights, agree, be_refused, leave_others_alone, run_documented):
        assert ended_by(fork(lambda: work(url, directory))) == 0, work  # noqa: B023
    assert ended_by(fork(lambda: compare_tokens(words, directory))) == 0
    for owl, layout in zip(owls, ("owl3-240728", "owl3-241101"), strict=True):
        assert ended_by(fork(lambda: call_owl3(owl, layout))) == 0, layout  # noqa: B023
    steps = OwlStreamDataset(url, micro_batch_size=ROWS).steps_per_epoch
    (directory / "done.json").write_text(json.dumps({"steps": steps}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
