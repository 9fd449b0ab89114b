"""A small whole dataset on disk: shards of mixed samples, a tokenizer and a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.tars import Sample, chat, picture, write_shard
from tests.support.tokenizer import small_tokenizer


def mixed_samples(count: int, first: int = 0) -> list[Sample]:
    """`count` samples in turn: one image, two images, text only, a longer conversation about one image."""
    return [(f"{number:06d}", _members(number)) for number in range(first, first + count)]


def _members(number: int) -> dict[str, bytes]:
    kind, tail = number % 4, "very " * (number % 7) + "small"
    if kind == 0:
        return {"json": chat(("<|image|>What is it?", f"A {tail} owl.")), "jpg": picture(60, 40, number)}
    if kind == 1:
        text = f"The first is {tail}, the second is number {number}."
        return {
            "json": chat(("<|image|> and <|image|>: compare them.", text)),
            "0.jpg": picture(32, 48, number),
            "1.png": picture(40, 40, number + 1000, "PNG"),
        }
    if kind == 2:
        return {"json": chat((f"Say something {tail}.", f"Number {number}, {tail}."))}
    return {
        "json": chat(("<|image|>Where?", f"In a {tail} tree."), ("Are you sure?", "Quite sure.")),
        "jpg": picture(80, 30, number),
    }


def small_dataset(directory: Path, *, samples: int = 40, shards: int = 2, **settings: Any) -> Path:
    """Write shards `train-00000.tar`.. with `samples` samples in all and `owl-stream.yaml`; returns the latter's path.

    `settings` go into the dataset `train` of the configuration, `server` into its server part.
    """
    server = settings.pop("server", {})
    directory.mkdir(parents=True, exist_ok=True)
    per_shard = -(-samples // shards)
    for number in range(shards):
        first = number * per_shard
        count = min(per_shard, samples - first)
        write_shard(directory / f"train-{number:05d}.tar", mixed_samples(count, first))
    small_tokenizer(directory / "tokenizer.json")
    return write_config(directory, server=server, **settings)


def write_config(directory: Path, *, server: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Write (again) the configuration of a small dataset; `image_size` and `cut` go under `vision`."""
    vision = {"image_size": 28} | {key: settings.pop(key) for key in ("image_size", "cut") if key in settings}
    dataset = {
        "shards": ["train-*.tar"],
        "tokenizer": "tokenizer.json",
        "vision": vision,
        "max_length": 512,
        "global_batch_size": 4,
        "bucket_window": 4,
        **settings,
    }
    path = directory / "owl-stream.yaml"
    path.write_text(yaml.safe_dump({"server": server or {}, "datasets": {"train": dataset}}))
    return path
