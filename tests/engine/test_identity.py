"""Datasets of one server that differ in one thing never get each other's frames.

Fault 115 of docs/faults.md.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from owl_stream.assemble import Dataset, open_dataset
from owl_stream.config import DatasetConfig, make_config
from owl_stream.engine import Coordinate, Engine, InlineEngine, ProcessEngine
from owl_stream.errors import OwlStreamError
from owl_stream.layouts.owl3 import Owl3Settings
from tests.engine.conftest import running
from tests.support.datasets import mixed_samples
from tests.support.images import damaged_jpeg
from tests.support.tars import chat, picture, write_shard
from tests.support.tokenizer import small_tokenizer

OTHERWISE: dict[str, Any] = {
    "shards": ["copy/*.tar"],
    "model": "other-qwen",
    "layout": "owl3-241101",
    "tokenizer": "other.json",
    "chat_template": "other.jinja",
    "train_on": "last",
    "positions": "v4",
    "vision": {"image_size": 42, "cut": "off"},
    "chat": "swift",
    "resize": "pillow",
    "max_length": 60,
    "max_image_pixels": 1000,
    "max_image_bytes": 1 << 20,
    "global_batch_size": 8,
    "seed": 1,
    "shuffle": "block",
    "shuffle_block_shards": 1,
    "bucket_window": 1,
    "modality": "off",
    "last": "drop",
    "on_too_long": "skip",
    "on_bad_sample": "fail",
    "on_unknown_field": "refuse",
    "literal_markers": True,
    "keep_rows": False,
    "text_token_cost": 7,
    "vision_token_cost": 7,
}
"""Another valid value for every setting of a dataset."""

TEMPLATE = Path(__file__).parents[1] / "layouts" / "templates" / "qwen2_5_vl.jinja"
VISION = {"image_size": 28}
PAIRS: dict[str, dict[str, Any]] = {
    **{setting: {setting: value} for setting, value in OTHERWISE.items() if setting != "vision"},
    **{f"vision.{key}": {"vision": VISION | {key: value}} for key, value in OTHERWISE["vision"].items()},
}
"""What each other dataset differs in: a setting, or one choice about pictures."""

OF_MODELS = ("model", "chat_template", "train_on", "positions")
"""Settings that mean something only where a model's files settle the rest."""
QWEN: dict[str, Any] = {"model": "qwen", "tokenizer": None, "vision": {}}

ENGINES: dict[str, Callable[[], Engine]] = {"inline": InlineEngine, "processes": lambda: ProcessEngine(1)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with long, damaged and odd samples, a copy of them elsewhere, and two tokenizers."""
    directory = tmp_path_factory.mktemp("identity")
    odd = [
        ("long", {"json": chat(("Tell me.", "word " * 200))}),
        ("unknown", {"json": chat(("a", "b"), mood="glad")}),
        ("broken", {"json": chat(("<|image|>What?", "b")), "jpg": damaged_jpeg(picture(200, 150, 7))}),
        ("large", {"json": chat(("<|image|>What?", "b")), "jpg": picture(200, 150, 8)}),
    ]
    (directory / "copy").mkdir()
    (directory / "copy" / "deeper").mkdir()
    write_shard(directory / "a.tar", [*mixed_samples(10), *odd])
    write_shard(directory / "b.tar", mixed_samples(9, first=50))
    for name in ("a", "b"):
        shutil.copy(directory / f"{name}.tar", directory / "copy" / f"other-{name}.tar")
    small_tokenizer(directory / "tokenizer.json")
    text = (directory / "tokenizer.json").read_text()
    (directory / "other.json").write_text(text.replace('"pre_tokenizer"', ' "pre_tokenizer"'))
    (directory / "other.jinja").write_text(TEMPLATE.read_text().replace("a helpful assistant", "an owl"))
    write_model(directory / "qwen", max_pixels=56 * 56)
    write_model(directory / "other-qwen", max_pixels=84 * 84)
    return directory


def write_model(directory: Path, max_pixels: int) -> None:
    """What a Qwen2.5-VL model's directory says of its pictures, tokens and texts."""
    tokenizer = Tokenizer.from_file(str(small_tokenizer(directory / "tokenizer.json")))
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in names.values()])
    tokenizer.save(str(directory / "tokenizer.json"))
    ids = {name: tokenizer.token_to_id(token) for name, token in names.items()}
    half = [0.5, 0.5, 0.5]
    pictures = {"min_pixels": 28 * 28, "max_pixels": max_pixels, "patch_size": 14, "merge_size": 2}
    files = {
        "config.json": {"model_type": "qwen2_5_vl", **ids, "vision_config": {"tokens_per_second": 2}},
        "preprocessor_config.json": {**pictures, "image_mean": half, "image_std": half},
        "tokenizer_config.json": {"pad_token": "<|endoftext|>"},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    shutil.copy(TEMPLATE, directory / "chat_template.jinja")


def opened(base: Path, **settings: Any) -> Dataset:
    """A dataset of these shards, alone."""
    raw = {"shards": ["*.tar"], "tokenizer": "tokenizer.json", "vision": VISION, "max_length": 512}
    raw |= {"global_batch_size": 4, "bucket_window": 4, **settings}
    config = make_config({"datasets": {"x": raw}}, origin="test", base=base, environ={})
    return open_dataset("x", config.datasets["x"], base, base / "index", processes=0)


async def frame(engine: Engine, dataset: Dataset, step: int) -> bytes | str:
    """A whole step as one frame, or the error that is there instead."""
    try:
        with await engine.frame(dataset, Coordinate(0, step, 0, 0, 1, dataset.global_batch_size)) as lease:
            return bytes(lease.view)
    except OwlStreamError as exc:
        return f"{type(exc).__name__}: {exc}"


async def frames_of(engine: Engine, *datasets: Dataset) -> list[list[bytes | str]]:
    """All steps of each, asked for at the same time."""
    steps = [range(dataset.steps_per_epoch) for dataset in datasets]
    asked = [asyncio.gather(*(frame(engine, of, step) for step in on)) for of, on in zip(datasets, steps, strict=True)]
    return [list(got) for got in await asyncio.gather(*asked)]


def test_every_setting_has_another_value_here() -> None:
    """A setting that is new is missing in the test below until it stands here."""
    assert set(OTHERWISE) == set(DatasetConfig.model_fields)
    assert {*OTHERWISE["vision"], "chat"} == {field.name for field in fields(Owl3Settings)}


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("setting", PAIRS)
def test_two_datasets_that_differ_in_one_setting_get_their_own_frames(base: Path, setting: str, kind: str) -> None:
    """In one engine, at the same time and one after the other, each has the frames that it has alone."""

    async def run() -> None:
        async with running(InlineEngine()) as alone:
            expected = [(await frames_of(alone, one))[0]]
        async with running(InlineEngine()) as alone:
            expected.append((await frames_of(alone, other))[0])
        async with running(ENGINES[kind]()) as shared:
            assert await frames_of(shared, one, other) == expected
            assert [(await frames_of(shared, dataset))[0] for dataset in (other, one)] == expected[::-1]

    common = QWEN if setting in OF_MODELS else {}
    one, other = opened(base, **common), opened(base, **{**common, **PAIRS[setting]})
    assert (one.frames == other.frames) == (setting == "keep_rows")  # kept rows save time and change nothing
    try:
        asyncio.run(run())
    finally:
        one.close()
        other.close()


def test_the_pair_of_the_resizers_is_a_pair(base: Path) -> None:
    """They have one fingerprint and different pixels, so the test above can fail."""

    async def run() -> None:
        async with running(InlineEngine()) as first, running(InlineEngine()) as second:
            assert await frames_of(first, one) != await frames_of(second, other)

    one, other = opened(base), opened(base, resize="pillow")
    try:
        assert one.fingerprint == other.fingerprint
        assert one.frames != other.frames
        asyncio.run(run())
    finally:
        one.close()
        other.close()


def test_the_same_dataset_twice_shares_its_frames(base: Path) -> None:
    """Under another name too: nothing that makes a frame differs."""
    one, other = opened(base), opened(base)
    assert one.frames == other.frames
    one.close()
    other.close()
