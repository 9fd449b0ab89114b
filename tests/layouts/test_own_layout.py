"""A layout of one's own: the example is installed as a package, found by its name, and served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from owl_client import OwlStreamDataset
from owl_stream.assemble import open_dataset
from owl_stream.config import DatasetConfig
from owl_stream.errors import ConfigError, ServerError
from owl_stream.layouts import get_layout, settle_recipe
from tests.client.peers import NO_WAIT
from tests.layouts.llava import llava_model
from tests.support.families import TEMPLATES, as_parts, opened
from tests.support.server import ROOT, ServerProcess
from tests.support.tars import chat, picture, write_shard

EXAMPLE = ROOT / "examples" / "llava_layout"


def test_the_example_is_installed_found_and_served(tmp_path: Path) -> None:
    """By its entry point, in the server and its workers; its batches are what LLaVA's own processor makes."""
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*install, str(site), str(EXAMPLE)], check=True)
    processor = llava_model(tmp_path / "model")
    samples = {}
    members = []
    for number, size in enumerate([(120, 80), (80, 120), (56, 56), (300, 60)]):
        data = picture(*size, number)
        messages = [
            {"role": "user", "content": f"<|image|>What is number {number}?"},
            {"role": "assistant", "content": f"An owl, {number}."},
        ]
        members.append((f"s{number}", {"json": json.dumps({"messages": messages}).encode(), "jpg": data}))
        samples[f"s{number}"] = (messages, data)
    write_shard(tmp_path / "a.tar", members)
    dataset = {"shards": ["a.tar"], "model": "model", "layout": "llava", "resize": "pillow", "global_batch_size": 4}
    path = tmp_path / "owl.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"train": dataset}, "server": {"workers": 1}}))
    with ServerProcess(path, env={"PYTHONPATH": f"{ROOT}:{site}"}) as server:
        (batch,) = OwlStreamDataset(server.url, "train", backoff=NO_WAIT)
    rows = [samples[row.key] for row in batch.meta.rows]
    template = (TEMPLATES / "llava.jinja").read_text()
    texts = [
        processor.tokenizer.apply_chat_template(_lists(messages), chat_template=template, tokenize=False)
        for messages, _ in rows
    ]
    expected = processor(
        text=texts, images=[opened(data) for _, data in rows], padding=True, padding_side="right", return_tensors="pt"
    )
    assert set(expected) == set(batch) - {"labels"}
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], expected[name])
    assert (batch["pixel_values"] - expected["pixel_values"]).abs().max() <= 1e-6
    learned = processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
    assert learned.strip() == rows[0][0][1]["content"]


def _lists(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """All contents as lists of parts, which is all that LLaVA's template takes."""
    turns = as_parts(messages)
    return [
        {**turn, "content": [{"type": "text", "text": turn["content"]}]} if isinstance(turn["content"], str) else turn
        for turn in turns
    ]


def test_a_module_and_class_name_a_layout_and_its_source_is_in_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`layout: MODULE:CLASS` needs no package; another source is another recipe."""
    monkeypatch.syspath_prepend(tmp_path)
    source = (EXAMPLE / "llava_layout.py").read_text()
    (tmp_path / "my_llava.py").write_text(source)
    llava_model(tmp_path / "model")
    config = DatasetConfig(shards=("a.tar",), model="model", layout="my_llava:LlavaLayout")
    recipe = settle_recipe(config, tmp_path)
    assert recipe.make_layout().name == "llava"
    assert len(recipe.source) == 32
    (tmp_path / "my_llava.py").write_text(source + "# changed\n")
    assert settle_recipe(config, tmp_path).source != recipe.source
    assert settle_recipe(DatasetConfig(shards=("a.tar",), tokenizer="t.json")).source == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Layout", "no_such_module:Layout: cannot be imported: ModuleNotFoundError"),
        ("json:JSONDecoder", "json:JSONDecoder: expected a layout class, which has `name`"),
        ("json:Nothing", "cannot be imported: AttributeError"),
        ("sys:path", "sys:path: expected a layout class, which has `name`"),
        ("llama", r"expected owl3-240728, .*, or MODULE:CLASS, got 'llama'"),
    ],
)
def test_what_is_no_layout_is_refused(name: str, message: str) -> None:
    """The message says why, and what there is."""
    with pytest.raises(ConfigError, match=message):
        get_layout(name)


_OWN = """
from dataclasses import dataclass
from owl_stream.layouts import SpecialTokens
from owl_stream.layouts.text import TEXT_TENSORS
from owl_stream.layouts.types import drawn, tensor
from owl_stream.wire import Normalise


@dataclass(frozen=True)
class Settings:
    value: object = 0


class Own:
    name, released, unit, transparency = "own", "nobody/own", "picture", "white"
    encode = filler = collate = check = targets = most_target_pixels = draw = look = None
    tokens = SpecialTokens("<pad>", {})
    schema = TEXT_TENSORS
    settings = Settings()

    def __init__(self, settings): ...

    @classmethod
    def settle(cls, choices):
        return cls.settings

    def lengths(self, sizes):
        return {"B": len(sizes), "L": 1}


PIXELS = drawn("pixel_values", "U", 3, 8, 8, normalise=Normalise((0.5,) * 3, (0.5,) * 3, 1, 1, False))
FLAT = drawn("pixel_values", "B", 8, 8, normalise=Normalise((0.5,) * 3, (0.5,) * 3, 1, 1, False))
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", None),
        ("Own.settings = {}", r"own_\d:Own: `settle`: expected a frozen dataclass, got {}; see layouts.md"),
        ("Own.settings = Settings({1})", "`settle`: expected plain values in its dataclass .*set is not JSON"),
        ("Own.tokens = ()", r"`tokens`: expected SpecialTokens, got \(\)"),
        ("del Own.schema", "`schema`: expected a tuple of tensor.* got None"),
        ("del Own.filler", "own_5:Own: expected a layout class, which has `filler`"),
        ("Own.schema = (*TEXT_TENSORS, PIXELS)", "`lengths`: expected a number for U, as the schema has it"),
        ("Own.schema = (PIXELS, *TEXT_TENSORS)", "`schema`: expected tensors that are drawn behind all others"),
        ("Own.schema = (FLAT,)", "own_8:Own: schema, tensor 'pixel_values': expected uint8 with 3 means"),
    ],
)
def test_a_layout_that_could_not_be_served_is_refused_when_the_configuration_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, line: str, message: str | None
) -> None:
    """Its class and the member are named, and what was expected; a whole one passes."""
    monkeypatch.syspath_prepend(tmp_path)
    module = f"own_{request.node.callspec.indices['line']}"
    (tmp_path / f"{module}.py").write_text(_OWN + line)
    config = DatasetConfig(shards=("a.tar",), tokenizer="t.json", layout=f"{module}:Own")
    if message is None:
        assert settle_recipe(config).make_layout().name == "own"
        return
    with pytest.raises(ConfigError, match=message):
        settle_recipe(config)


_HARM = {
    "settle": (
        "@classmethod\n    def settle(cls, choices): {}[1]",
        r"`settle` fails \(harmed_settle.py, line 3\): KeyError: 1",
    ),
    "init": (
        "def __init__(self, settings): raise ValueError('no')",
        r"`__init__` fails \(.*, line 2\): ValueError: no",
    ),
    "schema": ("schema = property(lambda self: ('a',), lambda *_: None)", "`schema`: expected a tuple of"),
    "tokens": ("tokens = property(lambda self: None, lambda *_: None)", "`tokens`: expected SpecialTokens, got None"),
    "lengths": ("def lengths(self, sizes): return {'B': 1, 'L': 1}", "`lengths`: expected a number for U"),
    "encode": ("def encode(self, *_): {}['a']", r"`encode` fails \(harmed_encode.py, line 2\): KeyError: 'a'"),
    "nothing": ("def encode(self, *_): return None", "`encode`: expected an EncodedRow, got None"),
    "exit": ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
}


@pytest.mark.parametrize("name", _HARM)
def test_a_layout_that_fails_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """While it is settled, made, or used on the first sample: member, line and error, and never our fault."""
    body, message = _HARM[name]
    monkeypatch.syspath_prepend(tmp_path)
    source = f"class Layout(__import__('llava_layout').LlavaLayout):\n    {body}\n"
    monkeypatch.syspath_prepend(EXAMPLE)
    (tmp_path / f"harmed_{name}.py").write_text(source)
    llava_model(tmp_path / "model")
    write_shard(tmp_path / "a.tar", [("s", {"json": chat(("Hello", "Good day"))})])
    config = DatasetConfig(shards=("a.tar",), model="model", layout=f"harmed_{name}:Layout")
    with pytest.raises(ConfigError, match=message) as caught:
        open_dataset("train", config, tmp_path, None, processes=0)
    assert f"`layout`: harmed_{name}:Layout: " in str(caught.value)


@pytest.mark.parametrize("member", ["draw", "collate", "check"])
def test_a_layout_that_fails_on_a_batch_is_named_to_the_trainer(tmp_path: Path, member: str) -> None:
    """At once, with member and line: what fails the same way every time is not tried again."""
    source = f"class Layout(__import__('llava_layout').LlavaLayout):\n    def {member}(self, *_): {{}}['a']\n"
    (tmp_path / f"failing_{member}.py").write_text(source)
    llava_model(tmp_path / "model")
    sample = {"json": chat(("<|image|>What?", "An owl.")), "jpg": picture(60, 60)}
    write_shard(tmp_path / "a.tar", [("s", sample)])
    data = {"shards": ["a.tar"], "model": "model", "layout": f"failing_{member}:Layout", "global_batch_size": 1}
    config = tmp_path / "owl-stream.yaml"
    config.write_text(yaml.safe_dump({"server": {"port": 0, "workers": 1}, "datasets": {"train": data}}))
    with (
        ServerProcess(config, env={"PYTHONPATH": f"{ROOT}:{tmp_path}:{EXAMPLE}"}) as server,
        pytest.raises(ServerError, match=rf"failing_{member}:Layout: `{member}` fails \(failing_{member}.py, line 2\)"),
    ):
        next(iter(OwlStreamDataset(server.url, backoff=NO_WAIT)))
