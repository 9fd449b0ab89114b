"""What a configuration with `layout: processor` settles, what it refuses, and what a server makes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml

from owl_client import OwlStreamDataset
from owl_stream.config import DatasetConfig
from owl_stream.errors import ConfigError, SampleError
from owl_stream.layouts import Chat, Image, LengthLimit, Recipe, Video, settle_recipe
from owl_stream.layouts.processor.layout import ProcessorLayout
from owl_stream.layouts.processor.released import FileTokenizer, Released
from owl_stream.layouts.types import Turn
from owl_stream.records import Message
from tests.client.peers import NO_WAIT
from tests.layouts.processor.conftest import write_samples
from tests.layouts.processor.stage import Stage, handed_out, open_stage, samples, turns
from tests.support.assembly import run_at
from tests.support.families_processor import BY_PROCESSOR, make_processor_family
from tests.support.server import ROOT, ServerProcess

NO_LIMIT = LengthLimit(1 << 20, "skip")


def settled(directory: Path, **settings: Any) -> Recipe:
    """The recipe for the model in `directory`."""
    config = DatasetConfig(shards=("s-*.tar",), model=str(directory), layout="processor", **settings)
    return settle_recipe(config)


def made(directory: Path, **settings: Any) -> tuple[ProcessorLayout, FileTokenizer]:
    """The layout for it, and its tokenizer."""
    layout = settled(directory, **settings).make_layout()
    assert isinstance(layout, ProcessorLayout)
    return layout, layout._released.tokenizer()


def said(*pairs: tuple[str, str]) -> list[Turn]:
    """A conversation."""
    return [Message(turn["role"], turn["content"]) for turn in turns(*pairs)]


@pytest.mark.long
@pytest.mark.parametrize("name", ["smolvlm", "llava_onevision"])
def test_a_server_serves_what_the_processor_makes(name: str, tmp_path: Path) -> None:
    """End to end: indexed and assembled in other processes, padded by the client."""
    family = make_processor_family(name, tmp_path / "model")
    found = samples()
    write_samples(tmp_path, found)
    data = {"shards": ["s-*.tar"], "model": "model", "layout": "processor", "global_batch_size": 4, "modality": "off"}
    path = tmp_path / "owl.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"train": data}, "server": {"workers": 1}}))
    with ServerProcess(path, env={"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}) as server:
        batches = list(OwlStreamDataset(server.url, "train", backoff=NO_WAIT))
    stage = Stage(family, None, found, tmp_path)  # type: ignore[arg-type] # the server has the data set
    compared = 0
    for batch in batches:
        keys = [row.key for row in batch.meta.rows if row.status == "ok"]
        if len(keys) == len(batch.meta.rows):
            expected = stage.expected(keys)
            assert set(expected) == set(batch) - {"labels"}
            for tensor, want in expected.items():
                assert batch[tensor].shape == want.shape
                assert (batch[tensor] - want).abs().max() <= 1e-6
            compared += 1
    assert compared >= len(batches) - 1


def test_a_bad_picture_masks_its_row_and_no_other(stage: Stage, tmp_path: Path) -> None:
    """The row keeps its shape, and its neighbours are what the processor makes."""
    names = ["size-500x375", "two-alike", "text-1", "behind"]
    found = {name: stage.samples[name] for name in names}
    messages, [data] = found["size-500x375"]
    found["size-500x375"] = (messages, [data[:-200]])
    write_samples(tmp_path, found)
    shutil.copytree(stage.family.directory, tmp_path / "model")
    dataset = open_stage(tmp_path, modality="off", shuffle="none")
    frame = run_at(dataset, 0)
    tensors = handed_out(dataset, frame)
    dataset.close()
    statuses = {row.key: row.status for row in frame.rows}
    assert statuses == {name: "masked" if name == "size-500x375" else "ok" for name in names}
    expected = stage.expected([row.key for row in frame.rows])
    masked = [row.key for row in frame.rows].index("size-500x375")
    assert (tensors["labels"][masked] == -100).all()
    assert torch.equal(tensors["input_ids"], expected["input_ids"])
    pictures = [number for number, row in enumerate(frame.rows) for _ in found[row.key][1]]
    by_row = stage.family.name == "smolvlm"
    for at, row in enumerate(range(len(names)) if by_row else pictures):
        if row != masked:
            assert (tensors["pixel_values"][at] - expected["pixel_values"][at]).abs().max() <= 1e-6


@pytest.mark.parametrize("name", BY_PROCESSOR)
def test_equal_files_anywhere_are_an_equal_recipe(name: str, tmp_path: Path) -> None:
    """Neither the directory's place nor its name counts; the processor's settings and transformers' version do."""
    make_processor_family(name, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "c")
    write_samples(tmp_path, {name: sample for name, sample in samples().items() if name.startswith("text")})

    def fingerprint(model: str, **vision: Any) -> str:
        dataset = open_stage(tmp_path, model=model, vision=vision)
        dataset.close()
        return dataset.fingerprint

    assert fingerprint("a") == fingerprint("b/c")
    assert fingerprint("a", image_mean=[0.4, 0.4, 0.4]) != fingerprint("a")
    path = tmp_path / "b" / "c" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_std": [0.4, 0.5, 0.6]}))
    assert fingerprint("b/c") != fingerprint("a")
    assert settled(tmp_path / "a").settings.transformers == hf.__version__  # type: ignore[attr-defined] # its settings


def test_vision_holds_settings_of_the_image_processor(tmp_path: Path) -> None:
    """By their names there; others are refused with the nearest."""
    make_processor_family("smolvlm", tmp_path)
    whole, tokenizer = made(tmp_path)
    single, _ = made(tmp_path, vision={"do_image_splitting": False})
    rows = [
        layout.encode(Chat(said(("<|image|>", "Yes."))), [Image(90, 60)], tokenizer, NO_LIMIT)
        for layout in (whole, single)
    ]
    assert [row.image_units for row in rows] == [13, 1]
    with pytest.raises(ConfigError, match=r"`vision.do_image_spliting`.* did you mean `do_image_splitting`"):
        settled(tmp_path, vision={"do_image_spliting": False})


def test_videos_are_refused_by_name(tmp_path: Path) -> None:
    """The message says what to give."""
    layout, tokenizer = made(make_processor_family("smolvlm", tmp_path).directory)
    with pytest.raises(SampleError, match="takes its frames as images") as caught:
        layout.encode(Chat(said(("<|video|>", "Yes."))), [Video((Image(60, 60),))], tokenizer, NO_LIMIT)
    assert caught.value.reason == "video_unsupported"


def test_a_text_that_spells_a_placeholder_is_refused(tmp_path: Path) -> None:
    """The processor would take it for a picture."""
    layout, tokenizer = made(make_processor_family("smolvlm", tmp_path).directory)
    with pytest.raises(SampleError, match="spells out '<image>'"):
        layout.encode(Chat(said(("<|image|><image>", "Yes."))), [Image(60, 60)], tokenizer, NO_LIMIT)


def test_truncation_keeps_whole_pictures(tmp_path: Path) -> None:
    """What is left of a row is the beginning of the whole one, up to a picture's first token."""
    layout, tokenizer = made(make_processor_family("smolvlm", tmp_path).directory)
    talk, sizes = said(("<|image|>A", "B."), ("<|image|>C", "D.")), [Image(90, 60), Image(60, 60)]
    whole = layout.encode(Chat(talk), sizes, tokenizer, NO_LIMIT)
    alone = layout.encode(Chat(talk[:2]), sizes[:1], tokenizer, NO_LIMIT)
    cut = layout.encode(Chat(talk), sizes, tokenizer, LengthLimit(len(alone.input_ids) + 9, "truncate"))
    assert cut.truncated
    assert cut.input_ids.tolist() == whole.input_ids[: len(cut.input_ids)].tolist()
    assert len(alone.input_ids) <= len(cut.input_ids) <= len(alone.input_ids) + 9
    assert [visual.rows for visual in cut.visuals] == [visual.rows for visual in alone.visuals]
    assert cut.image_units == alone.image_units


def test_where_a_lost_picture_changes_those_that_stay_the_sample_is_refused(tmp_path: Path) -> None:
    """LLaVA-OneVision cuts a picture that is alone into tiles, and one beside another not at all."""
    layout, tokenizer = made(make_processor_family("llava_onevision", tmp_path).directory)
    talk, sizes = said(("<|image|>A", "B."), ("<|image|>C", "D.")), [Image(90, 60), Image(60, 60)]
    whole = layout.encode(Chat(talk), sizes, tokenizer, NO_LIMIT)
    with pytest.raises(SampleError, match="cannot be cut between its pictures") as caught:
        layout.encode(Chat(talk), sizes, tokenizer, LengthLimit(int(whole.unit_starts[1]) + 3, "truncate"))
    assert caught.value.reason == "too_long"
    assert layout.encode(Chat(talk), sizes, tokenizer, LengthLimit(len(whole.input_ids) - 2, "truncate")).truncated


def test_a_picture_that_the_processor_refuses_is_a_bad_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the size and the processor's own words; there is no other size to try it with."""
    layout, tokenizer = made(make_processor_family("smolvlm", tmp_path).directory)
    ask = Released.ask

    def refusing(self: Released, texts: Any, pictures: Any, **options: Any) -> Any:
        if any(picture.shape[:2] == (33, 44) for row in pictures for picture in row):
            raise ValueError("absolute aspect\nratio must be smaller")
        return ask(self, texts, pictures, **options)

    monkeypatch.setattr(Released, "ask", refusing)
    talk = said(("<|image|>A", "B."))
    with pytest.raises(SampleError, match="44x33: ValueError: absolute aspect ratio must be") as caught:
        layout.encode(Chat(talk), [Image(44, 33)], tokenizer, NO_LIMIT)
    assert caught.value.reason == "processor_refused"
    assert layout.encode(Chat(talk), [Image(45, 33)], tokenizer, NO_LIMIT).image_units


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """Its ids would be other than those of the processor."""
    layout, tokenizer = made(make_processor_family("smolvlm", tmp_path).directory)

    class Other(FileTokenizer):
        def __init__(self) -> None:
            self.pad_id = 0

        def encode(self, text: str) -> Any:
            tokens = tokenizer.encode(text)
            return tokens._replace(ids=[*tokens.ids[:-1], 5])

    with pytest.raises(ConfigError, match="`tokenizer`: expected the model's own"):
        layout.encode(Chat(said(("Hi", "Ho."))), [], Other(), NO_LIMIT)


def _without(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _with(name: str, **values: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _written(name: str, text: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_text(text) and None


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no_tokenizer": (_without("tokenizer.json"), "no tokenizer.json; have transformers write one"),
    "no_image_processor": (_without("preprocessor_config.json"), "transformers makes no processor of its files: "),
    "no_template": (_without("chat_template.jinja"), "`chat_template`: model .* has none"),
    "broken_tokenizer": (_written("tokenizer.json", "{}"), "transformers makes no processor of its files: "),
    "no_pad_token": (_with("tokenizer_config.json", pad_token=None), "expected `pad_token` in tokenizer_config.json"),
    "text_only_template": (
        _written("chat_template.jinja", "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}"),
        "expected the chat template to write <image> once for a picture|takes there, got image",
    ),
    "no_padding": (
        _with("preprocessor_config.json", do_pad=False),
        r"expected pixel_values of tiles that all have one shape, \[tiles, ...\]",
    ),
    "unknown_class": (
        _with("processor_config.json", processor_class="NoSuchProcessor"),
        None,  # type: ignore[dict-item] # the family's own is taken
    ),
    "unknown_family": (
        lambda directory: (
            _with("processor_config.json", processor_class="NoSuchProcessor")(directory),
            _written("config.json", '{"model_type": "nothing"}')(directory),
        )[0],
        "that transformers .* has a processor for, got .*NoSuchProcessor",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_a_bad_directory_has_one_clear_line(spoil: Callable[[Path], None], message: str | None, tmp_path: Path) -> None:
    """It names the model, and what is missing; where transformers refuses, its words."""
    make_processor_family("llava_onevision", tmp_path)
    spoil(tmp_path)
    if message is None:
        settled(tmp_path)
        return
    with pytest.raises(ConfigError, match=message) as caught:
        settled(tmp_path)
    assert "\n" not in str(caught.value)


def _numbered(self: Any, image_inputs: Any, image_idx: int, **_: Any) -> str:
    return f"{image_idx}<image>"


def _batch_dependent(self: Any, images: Any, *args: Any, **options: Any) -> Any:
    made = hf.SmolVLMImageProcessorPil.true_preprocess(self, images, *args, **options)
    made["pixel_values"] = made["pixel_values"] + (made["pixel_attention_mask"][:, :, None] == 0).astype("float32")
    return made


def _by_content(self: Any, images: Any, *args: Any, **options: Any) -> Any:
    made = hf.SmolVLMImageProcessorPil.true_preprocess(self, images, *args, **options)
    made["brightness"] = made["pixel_attention_mask"] * (made["pixel_values"].max(axis=2) > 100)
    return made


@pytest.mark.parametrize(
    ("owner", "method", "instead", "message"),
    [
        (hf.SmolVLMProcessor, "replace_image_token", _numbered, "it numbers them"),
        (hf.SmolVLMImageProcessorPil, "_preprocess", _batch_dependent, "pixel_values: expected the numbers of its"),
        (hf.SmolVLMImageProcessorPil, "_preprocess", _by_content, "brightness: expected .*(mask|numbers)"),
    ],
    ids=["numbers", "padding", "content"],
)
def test_a_processor_whose_batches_are_not_made_of_rows_is_refused(
    owner: Any, method: str, instead: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is served in its name: texts that number pictures, padding that is not 0, numbers that go by pixels."""
    monkeypatch.setattr(
        hf.SmolVLMImageProcessorPil, "true_preprocess", hf.SmolVLMImageProcessorPil._preprocess, raising=False
    )
    monkeypatch.setattr(owner, method, instead)
    make_processor_family("smolvlm", tmp_path, image_mean=[0.5, 0.5, 0.25 + len(message) / 1024])
    with pytest.raises(ConfigError, match=message):
        settled(tmp_path)


def test_without_transformers_the_extra_is_named(tmp_path: Path) -> None:
    """In one line, with the command that installs it."""
    make_processor_family("llava_onevision", tmp_path)
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from owl_stream.config import DatasetConfig\n"
        "from owl_stream.layouts import settle_recipe\n"
        f"settle_recipe(DatasetConfig(shards=('a.tar',), model={str(tmp_path)!r}, layout='processor'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr.strip().endswith(
        "`layout: processor`: it needs transformers: `pip install 'owl-stream[processor]'`"
    )


def test_no_other_layout_loads_transformers() -> None:
    """It is imported where this layout is chosen, and nowhere else."""
    code = "import sys, owl_stream.assemble; print([m for m in ('transformers', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
