"""The layouts for which promises about bytes are held, and the settings of a small dataset of either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.tokenizer import small_tokenizer

OWL, QWEN = "owl3-240728", "qwen2_5_vl"
LAYOUTS = (OWL, QWEN)
"""One with crops of one size, and one with pictures of native resolution, videos, and all of its pools."""

every_layout = pytest.mark.parametrize("layout", LAYOUTS, indirect=True)
"""Of a test that holds a promise about what is in frames: it runs once for each."""
others_long = pytest.mark.parametrize("layout", [OWL, pytest.param(QWEN, marks=pytest.mark.long)], indirect=True)
"""The same, of a test that takes so long that `make test` runs it for the first one only."""


def has_videos(layout: str) -> bool:
    """Whether a layout's samples hold videos here, which then have a tower of their own."""
    return layout == QWEN


def settings_of(directory: Path, layout: str, **settings: Any) -> dict[str, Any]:
    """Settings of a dataset in a directory that is given what they name: a tokenizer, or a model's files.

    `image_size` and `cut` go under `vision`. Where pictures keep their own shape, each has at least that area (frames
    of a video half of it) and at most four times as much, and `cut` means nothing.
    """
    vision = {key: settings.pop(key) for key in ("image_size", "cut") if key in settings}
    if layout != QWEN:
        if not (directory / "tokenizer.json").exists():
            small_tokenizer(directory / "tokenizer.json")
        needs = {"layout": layout, "tokenizer": "tokenizer.json", "max_length": 512}
        return {**needs, "vision": {"image_size": 28} | vision, **settings}
    if not (directory / "model").exists():
        from tests.support.families import make_family  # takes seconds to import

        make_family(layout, directory / "model")
    least = vision.get("image_size", 28) ** 2
    # A row has several frames of a video: they are smaller, so that its part of a batch is not.
    areas = {"": least, "video_": max(28 * 28, least // 2)}
    pixels = {f"{of}{limit}_pixels": area * by for of, area in areas.items() for limit, by in (("min", 1), ("max", 4))}
    return {"model": "model", "max_length": 4096, "vision": pixels, **settings}
