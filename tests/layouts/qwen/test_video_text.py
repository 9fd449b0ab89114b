"""A video as text and its times, against the released processors' methods."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2_5_VLProcessor, Qwen3VLProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.video_utils import VideoMetadata

from owl_stream.layouts.qwen.video_text import PAD, replaced_span, video_text
from owl_stream.layouts.qwen.video_times import DEFAULT_FPS, pair_seconds, seconds_per_grid

FPS = st.one_of(st.sampled_from([1.0, 2.0, 23.976, 24.0, 29.97, 30.0]), st.floats(0.1, 240))
INDICES = st.lists(st.integers(0, 20_000), min_size=1, max_size=24, unique=True).map(sorted)


@pytest.fixture(scope="module")
def processor() -> Any:
    """A `Qwen3VLProcessor` with the names that its methods read, and no parts."""
    made = object.__new__(Qwen3VLProcessor)
    made.video_token, made.vision_start_token, made.vision_end_token = PAD, "<|vision_start|>", "<|vision_end|>"
    made.image_token = "<|image_pad|>"
    made.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    return made


def released(processor: Any, indices: list[int], fps: float | None, high: int, wide: int) -> str:
    """What the processor puts in a video's place."""
    metadata = VideoMetadata(total_num_frames=max(indices) + 1, fps=fps, frames_indices=list(indices))
    grid = np.array([[-(-len(indices) // 2), high, wide]])
    text: str = processor.replace_video_token({"video_grid_thw": grid, "video_metadata": [metadata]}, video_idx=0)
    return text


@given(INDICES, FPS, st.integers(1, 6), st.integers(1, 6))
def test_a_video_is_the_text_that_the_processor_writes(
    processor: Any, indices: list[int], fps: float, rows: int, columns: int
) -> None:
    """Any frames at any speed, also an odd number of them."""
    expected = released(processor, indices, fps, 2 * rows, 2 * columns)
    assert video_text(pair_seconds(indices, fps), rows * columns) == expected


def test_frames_without_metadata_run_at_24_a_second(processor: Any) -> None:
    """As the processor assumes with a warning."""
    expected = released(processor, [0, 1, 2, 3, 4], None, 4, 2)
    assert video_text(pair_seconds(range(5)), 2) == expected
    assert expected.startswith("<0.0 seconds><|vision_start|><|video_pad|><|video_pad|><|vision_end|><0.1 seconds>")
    assert VideoMetadata(total_num_frames=5).sampled_fps == DEFAULT_FPS


@pytest.mark.parametrize("text", ["Look:<|vision_start|><|video_pad|><|vision_end|>And?", "Look:<|video_pad|>And?"])
def test_the_processor_replaces_the_placeholder_alone(processor: Any, text: str) -> None:
    """5.x keeps the marks that a chat template writes around it."""
    begin, end = replaced_span(text, text.index(PAD), "v5")
    [expected], _ = processor.get_text_with_replacements([text], videos_replacements=["VIDEO"])
    assert f"{text[:begin]}VIDEO{text[end:]}" == expected


def test_4_57_replaced_the_marks_too(golden_dir: Path) -> None:
    """What the processor of transformers 4.57 made of a text, with its marks around the placeholder and without."""
    cases = json.loads((golden_dir / "positions_v4.json").read_text())["video_texts"]
    assert len(cases) == 5
    for case in cases:
        text = case["text"]
        begin, end = replaced_span(text, text.index(PAD), "v4")
        video = video_text(pair_seconds(case["frames_indices"], case["fps"]), case["tokens"])
        assert f"{text[:begin]}{video}{text[end:]}" == case["expanded"]


@given(st.integers(1, 100), st.integers(0, 500), FPS)
def test_seconds_per_grid_are_the_processors(frames: int, unused: int, fps: float) -> None:
    """Qwen2.5-VL's, for frames spread over a longer video and for all of them."""
    metadata = VideoMetadata(total_num_frames=frames + unused, fps=fps, frames_indices=list(range(frames)))
    made = object.__new__(Qwen2_5_VLProcessor)
    made.video_processor = SimpleNamespace(temporal_patch_size=2)
    with pytest.MonkeyPatch.context() as patch:
        processed = {"video_grid_thw": np.array([[1, 2, 2]]), "video_metadata": [metadata]}
        patch.setattr(ProcessorMixin, "_process_videos", lambda *_, **__: (processed, []))
        expected, _ = made._process_videos([])
    assert expected["second_per_grid_ts"] == [seconds_per_grid(frames, fps, frames + unused)]
    assert seconds_per_grid(frames) == 2 / VideoMetadata(total_num_frames=frames).sampled_fps
