"""ms-swift's `swift sft`: killed twice, and at another world size the same rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.datasets import small_dataset, write_config
from tests.support.families import make_family, make_qwen
from tests.support.qwen2 import qwen2_tokenizer_path
from tests.support.server import ROOT, ServerProcess
from tests.trainers.model import steps_of

SWIFT = Path(sys.prefix) / "swift"
"""A folder of its own: it takes other versions of transformers and datasets than the rest."""
REAL = ROOT.parent / "shared" / "data" / "real"
EPOCHS = 2

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.trainers,
]  # twenty trainings, on a machine that may do other things too


def configure(directory: Path) -> tuple[Path, list[str]]:
    """A configuration, and its shards: with the real samples, where they lie beside the checkout."""
    settings: dict[str, Any] = {"layout": "qwen2_5_vl", "global_batch_size": 8, "server": {"workers": 0}}
    small_dataset(directory, samples=28, **settings)
    shards = sorted(map(str, [*directory.glob("*.tar"), *REAL.glob("*.tar")]))
    return write_config(directory, shards=shards, **settings), shards


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs have left their logs. Losses, gradients, tokens and refusals were held there too."""
    if not SWIFT.is_dir():
        pytest.skip("ms-swift is not installed in this environment: `make test-trainers` does that")
    directory = tmp_path_factory.mktemp("swift")
    (directory / "data").mkdir()
    family = make_family("qwen2_5_vl", directory / "data" / "model")
    model = family.model()
    model.lm_head.weight.data.copy_(model.get_input_embeddings().weight)  # so that it is right about doubled letters
    model.save_pretrained(family.directory)
    (directory / "model").symlink_to(family.directory)
    config, shards = configure(directory / "data")
    (directory / "shards.json").write_text(json.dumps(shards))
    make_qwen("qwen2_5_vl", directory / "words" / "model", vocabulary=qwen2_tokenizer_path())
    words = write_config(directory / "words", layout="qwen2_5_vl", shards=shards)
    owls = [
        small_dataset(directory / layout, layout=layout, samples=16, server={"workers": 0})
        for layout in ("owl3-240728", "owl3-241101")
    ]
    environ = {**os.environ, "PYTHONPATH": f"{SWIFT}:{ROOT}:{ROOT}/client", "OMP_NUM_THREADS": "1"}
    environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ExitStack() as servers:
        urls = [
            servers.enter_context(ServerProcess(each, arguments=("--index-dir", str(each.parent / "index")))).url
            for each in (config, words, *owls)
        ]
        command = [sys.executable, "-m", "tests.trainers.swift_sft", str(directory), *urls]
        subprocess.run(command, env=environ, cwd=ROOT, check=True)
    return directory


def test_a_run_that_was_killed_twice_trains_on_what_an_undisturbed_one_does(runs: Path) -> None:
    """Two ranks, then one process, then two ranks: no row is missing, repeated otherwise or moved."""
    killed, again, resumed, undisturbed = (
        steps_of(runs / run) for run in ("killed", "killed-again", "resumed", "undisturbed")
    )
    steps = json.loads((runs / "done.json").read_text())["steps"]
    assert sorted(undisturbed) == [(epoch, step) for epoch in range(EPOCHS) for step in range(steps)]
    assert (max(killed), min(again)) == ((0, 2), (0, 2)), "steps are saved two at a time"
    assert min(resumed) <= max(again) < (1, 2)
    for run in (killed, again, resumed):
        assert run == {step: undisturbed[step] for step in run}
    assert killed | again | resumed == undisturbed


def test_lora_resumes_on_the_same_rows(runs: Path) -> None:
    """swift's default: killed on two ranks, it goes on in one process."""
    killed, resumed, undisturbed = (steps_of(runs / run) for run in ("lora-killed", "lora-resumed", "lora-undisturbed"))
    assert (max(killed), min(resumed)) == ((0, 2), (0, 2))
    assert killed | resumed == undisturbed


@pytest.mark.parametrize(
    ("output", "others", "file"),
    [("checkpoints", "others", "model.safetensors"), ("lora", "lora-others", "adapter_model.safetensors")],
)
def test_it_ends_with_the_weights_of_an_undisturbed_run(runs: Path, output: str, others: str, file: str) -> None:
    """The last checkpoints are compared, and the first differs from them."""
    from safetensors.torch import load_file

    def saved(directory: Path, which: int) -> dict[str, torch.Tensor]:
        found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
        weights: dict[str, torch.Tensor] = load_file(found[which] / file)
        return weights

    ended, undisturbed = saved(runs / output, -1), saved(runs / others, -1)
    torch.testing.assert_close(ended, undisturbed, rtol=1e-3, atol=1e-5)
    first = saved(runs / others, 0)
    assert max(float((weight - first[name]).abs().max()) for name, weight in undisturbed.items()) > 1e-4
