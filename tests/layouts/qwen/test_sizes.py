"""How large pictures and clips are made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.video_processing_utils import BaseVideoProcessor

from owl_stream.errors import SampleError
from owl_stream.layouts.qwen.sizes import fit, fit_clip, fit_frames, frame_pairs
from tests.layouts.qwen.released import video_processor

FACTORS = st.sampled_from([28, 32])
SIDES = st.integers(1, 3000)
LIMITS = st.tuples(st.integers(1, 400_000), st.integers(0, 2_000_000)).map(lambda least: (least[0], sum(least)))
RULES = {"qwen2_vl": fit_frames, "qwen3_vl": fit_clip}


def outcome(call: Any, refused: type[Exception]) -> Any:
    """What a call returns, or that it refused."""
    try:
        return call()
    except refused:
        return "refused"


@given(SIDES, SIDES, FACTORS, LIMITS)
@settings(max_examples=500)
def test_an_image_has_the_size_that_the_processor_gives_it(
    width: int, height: int, factor: int, limits: tuple[int, int]
) -> None:
    """Any size, any limits: what one refuses, the other does too."""
    ours = outcome(lambda: fit(width, height, factor, *limits), SampleError)
    theirs = outcome(lambda: smart_resize(height, width, factor, *limits)[::-1], ValueError)
    assert ours == theirs


@given(st.integers(1, 60), st.integers(1, 60), FACTORS, LIMITS)
def test_halves_go_to_the_even_multiple(across: int, down: int, factor: int, limits: tuple[int, int]) -> None:
    """Sides that are half multiples are where Python's rounding shows."""
    width, height = across * factor // 2, down * factor // 2
    assert fit(width, height, factor, *limits) == smart_resize(height, width, factor, *limits)[::-1]


@pytest.mark.parametrize("family", RULES)
@given(st.integers(1, 64), SIDES, SIDES, FACTORS, LIMITS, st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_clip_has_the_size_that_the_video_processor_asks_for(
    family: str, frames: int, width: int, height: int, factor: int, limits: tuple[int, int], capped: bool
) -> None:
    """The released `resize`, caught where it hands the size to torchvision."""
    size = SimpleNamespace(shortest_edge=limits[0], longest_edge=limits[1])

    def theirs() -> tuple[int, int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                BaseVideoProcessor, "resize", lambda self, size, **_: (size.width, size.height), raising=False
            )
            clip = torch.empty(1, frames, 3, height, width, device="meta")
            return video_processor(family).resize(
                clip, size, None, factor=factor, temporal_factor=2, cap_pixels_per_frame=capped
            )

    ours = outcome(lambda: RULES[family](frames, width, height, factor, *limits, capped=capped), SampleError)
    assert ours == outcome(theirs, ValueError)


@given(st.integers(2, 100), st.integers(50, 800), st.integers(50, 800))
def test_a_clip_has_as_many_patches_as_the_video_processor_counts(frames: int, width: int, height: int) -> None:
    """An odd frame is one of a pair."""
    processor = video_processor("qwen3_vl")
    wide, high = fit_clip(frames, width, height, 32, processor.size["shortest_edge"], processor.size["longest_edge"])
    expected = processor.get_num_of_video_patches(frames, height, width)
    assert frame_pairs(frames) * (wide // 16) * (high // 16) == expected


def test_a_picture_that_is_too_long_is_named() -> None:
    """At 200 times the processors take it, above they refuse."""
    assert fit(6000, 30, 28, 3136, 1_000_000) == (5992, 28)
    with pytest.raises(SampleError, match="30x6001") as error:
        fit(30, 6001, 28, 3136, 1_000_000)
    assert error.value.reason == "aspect_ratio"


def test_a_clip_of_one_frame_is_refused_where_its_processor_refuses_it() -> None:
    """Qwen3-VL's demands a pair; Qwen2-VL's repeats the frame."""
    with pytest.raises(SampleError) as error:
        fit_clip(1, 640, 480, 32, 4096, 1_000_000)
    assert error.value.reason == "video_frames"
    assert fit_frames(1, 640, 480, 28, 3136, 1_000_000) == (644, 476)
