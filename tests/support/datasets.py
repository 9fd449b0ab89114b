"""A small whole dataset on disk: shards of mixed samples, a tokenizer and a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.layouts import OWL, has_videos, settings_of
from tests.support.tars import Sample, chat, picture, write_shard

_FILMED = {3: 0, 6: 0, 7: 1, 11: 0, 14: 0, 15: 1}
"""Of twenty samples in a row those that are given a video instead, and how many images beside it.

Of forty samples that leaves 6 texts, 22 with images, 8 with videos, 4 with both. Steps of four of them are eleven an
epoch, with four fillers: as many as without videos.
"""


def mixed_samples(count: int, first: int = 0, *, layout: str = OWL) -> list[Sample]:
    """`count` samples in turn: one image, two images, text only, a longer conversation about one image.

    For a layout with a tower for videos some have a video instead, and some a video and an image.
    """
    filmed = _FILMED if has_videos(layout) else {}
    return [
        (f"{number:06d}", _video(number, filmed[number % 20]) if number % 20 in filmed else _members(number))
        for number in range(first, first + count)
    ]


def _video(number: int, images: int) -> dict[str, bytes]:
    """Two to five frames, of one size in a sample and of another one in the next."""
    frames = {f"f{at}.jpg": picture(50 + number % 20, 36, 10 * number + at) for at in range(2 + number % 4)}
    still = {"still.png": picture(44, 30, number, "PNG")} if images else {}
    record = chat(
        (
            "<|video|>What happens?" + "<|image|>And here?" * images,
            f"It flies, {'very ' * (number % 5)}high, {number}.",
        ),
        videos=[list(frames)],
        images=list(still),
    )
    return {"json": record, **frames, **still}


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


def small_dataset(directory: Path, *, layout: str = OWL, samples: int = 40, shards: int = 2, **settings: Any) -> Path:
    """Write shards `train-00000.tar`.. with `samples` samples in all and `owl-stream.yaml`; returns the latter's path.

    `settings` go into the dataset `train` of the configuration, `server` into its server part.
    """
    directory.mkdir(parents=True, exist_ok=True)
    per_shard = -(-samples // shards)
    for number in range(shards):
        first = number * per_shard
        count = min(per_shard, samples - first)
        write_shard(directory / f"train-{number:05d}.tar", mixed_samples(count, first, layout=layout))
    return write_config(directory, layout=layout, **settings)


def write_config(directory: Path, *, layout: str = OWL, server: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Write (again) the configuration of a small dataset; `image_size` and `cut` go under `vision`."""
    defaults = {"shards": ["train-*.tar"], "global_batch_size": 4, "bucket_window": 4}
    dataset = settings_of(directory, layout, **{**defaults, **settings})
    path = directory / "owl-stream.yaml"
    path.write_text(yaml.safe_dump({"server": server or {}, "datasets": {"train": dataset}}))
    return path
