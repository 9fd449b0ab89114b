"""Positions on three axes, against `get_rope_index` of the released models."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from owl_stream.errors import SampleError
from owl_stream.layouts.qwen.positions import (
    IMAGE,
    PADDING,
    TEXT,
    VIDEO,
    PositionRule,
    RowMedia,
    positions,
    stretches,
    token_types,
)
from tests.layouts.qwen.released import (
    FAMILIES,
    IMAGE_TOKEN,
    TEXT_TOKEN,
    TOKENS_PER_SECOND,
    VIDEO_TOKEN,
    VISION_END,
    VISION_START,
    model,
)

RULES = {
    "qwen2_vl": PositionRule(),
    "qwen2_5_vl": PositionRule(tokens_per_second=TOKENS_PER_SECOND),
    "qwen3_vl": PositionRule(split_videos=True),
    "qwen3_5": PositionRule(split_videos=True),
}


class Part(NamedTuple):
    """A piece of a conversation: words, or a medium of merged rows and columns. `size` counts words or frame pairs."""

    kind: int
    size: int
    rows: int = 1
    columns: int = 1
    seconds: float = 1.0

    @property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) in patches."""
        return self.size, 2 * self.rows, 2 * self.columns

    def ids(self, split_videos: bool) -> list[int]:
        """Its tokens, a medium's between its marks."""
        if self.kind == TEXT:
            return [TEXT_TOKEN] * self.size
        pad = IMAGE_TOKEN if self.kind == IMAGE else VIDEO_TOKEN
        frame = self.rows * self.columns
        if self.kind == VIDEO and split_videos:
            return ([TEXT_TOKEN] * 3 + [VISION_START, *[pad] * frame, VISION_END]) * self.size
        return [VISION_START, *[pad] * (self.size * frame), VISION_END]


SIDE = st.integers(1, 9)
WORDS = st.builds(Part, st.just(TEXT), st.integers(1, 12))
IMAGES = st.builds(Part, st.just(IMAGE), st.just(1), SIDE, SIDE)
VIDEOS = st.builds(Part, st.just(VIDEO), st.integers(1, 12), SIDE, SIDE, st.floats(1 / 64, 20, width=32))
CONVERSATIONS = st.lists(st.one_of(WORDS, IMAGES, VIDEOS), min_size=1, max_size=8)


def placed(types: Any, images: Any, videos: Any, rule: PositionRule, seconds: Any = None) -> np.ndarray:
    """The positions of one row: int64 [3, T]."""
    out = np.full((3, len(types)), -1, np.int64)
    (row,) = stretches(np.asarray(types)[None], [len(types)])
    positions(row, RowMedia(images, videos, [1.0] * len(videos) if seconds is None else seconds), rule, out)
    return out


def ours(parts: list[Part], family: str) -> np.ndarray:
    """The positions that we give a conversation."""
    rule = RULES[family]
    ids = np.array([token for part in parts for token in part.ids(rule.split_videos)])
    videos = [part for part in parts if part.kind == VIDEO]
    return placed(
        token_types(ids, IMAGE_TOKEN, VIDEO_TOKEN),
        [part.grid for part in parts if part.kind == IMAGE],
        [part.grid for part in videos],
        rule,
        np.array([part.seconds for part in videos], np.float32),
    )


def theirs(rows: list[list[Part]], family: str) -> np.ndarray:
    """What the released model computes for right-padded rows: int64 [3, B, L]."""
    split = RULES[family].split_videos
    encoded = [[token for part in parts for token in part.ids(split)] for parts in rows]
    length = max(map(len, encoded))
    ids = torch.tensor([row + [TEXT_TOKEN] * (length - len(row)) for row in encoded])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in encoded])
    videos = [part for parts in rows for part in parts if part.kind == VIDEO]
    images = [part for parts in rows for part in parts if part.kind == IMAGE]
    seconds = torch.tensor([video.seconds for video in videos])
    more = {"second_per_grid_ts": seconds} if family == "qwen2_5_vl" else {}
    found, _ = model(family).get_rope_index(
        ids,
        mm_token_type_ids=(ids == IMAGE_TOKEN) + 2 * (ids == VIDEO_TOKEN).long(),
        image_grid_thw=torch.tensor([image.grid for image in images]) if images else None,
        video_grid_thw=torch.tensor([video.grid for video in videos]) if videos else None,
        attention_mask=mask,
        **more,
    )
    return np.asarray(found)


@pytest.mark.parametrize("family", FAMILIES)
@given(CONVERSATIONS)
@example([Part(TEXT, 9)])
@example([Part(IMAGE, 1, 1, 1)])
@example([Part(IMAGE, 1, 40, 3), Part(IMAGE, 1, 2, 30), Part(TEXT, 1)])
@example([Part(VIDEO, 30, 2, 2, 0.08333333), Part(TEXT, 4)])
@example([Part(VIDEO, 100, 1, 2, 0.7), Part(VIDEO, 3, 2, 1, 1.1), Part(IMAGE, 1, 5, 5)])
@settings(max_examples=150, deadline=None)
def test_v5_is_what_the_model_computes(family: str, parts: list[Part]) -> None:
    """Text, images and videos in any order, back to back, at either end, tiny and large."""
    np.testing.assert_array_equal(ours(parts, family), theirs([parts], family)[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
@given(st.lists(CONVERSATIONS, min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_batch_is_its_rows_and_padding(family: str, rows: list[list[Part]]) -> None:
    """The model's own batch: each row as alone, and one number behind it."""
    batch = theirs(rows, family)
    for b, parts in enumerate(rows):
        alone = ours(parts, family)
        np.testing.assert_array_equal(batch[:, b, : alone.shape[1]], alone)
        assert (batch[:, b, alone.shape[1] :] == PADDING["v5"]).all()


def golden(golden_dir: Path) -> dict[str, Any]:
    """What transformers 4.57 computed."""
    made: dict[str, Any] = json.loads((golden_dir / "positions_v4.json").read_text())
    return made


def test_v4_is_what_transformers_4_computed(golden_dir: Path) -> None:
    """All 45 golden rows: three families, long videos, fractions of seconds, media at the edges and back to back."""
    made = golden(golden_dir)
    assert len(made["cases"]) == 45
    for case in made["cases"]:
        family = case["family"]
        rule = PositionRule(
            "v4", 2, family == "qwen3_vl", made["tokens_per_second"] if family == "qwen2_5_vl" else None
        )
        types = token_types(np.array(case["input_ids"]), IMAGE_TOKEN, VIDEO_TOKEN)
        found = placed(types, case["image_grids"], case["video_grids"], rule, case["seconds"])
        assert found.tolist() == case["positions"], (family, case["name"])


def test_v4_pads_with_ones(golden_dir: Path) -> None:
    """Where 5.x leaves zeros."""
    batch = golden(golden_dir)["padded"]
    for b, length in enumerate(batch["lengths"]):
        assert {axis[b][i] for axis in batch["positions"] for i in range(length, len(axis[b]))} <= {PADDING["v4"]}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_the_releases_differ_behind_a_long_video(family: str) -> None:
    """Six pairs of two by two, one second each: 5.x goes on after two positions, 4.57 after the last step of time."""
    types, video = np.array([TEXT, *[VIDEO] * 24, TEXT]), [(6, 4, 4)]
    v5, v4 = (
        placed(types, [], video, PositionRule(release, tokens_per_second=RULES[family].tokens_per_second))
        for release in ("v5", "v4")
    )
    np.testing.assert_array_equal(v5[:, :-1], v4[:, :-1])
    assert v5[:, -1].tolist() == [3, 3, 3]
    assert v4[:, -1].tolist() == [{"qwen2_vl": 7, "qwen2_5_vl": 12}[family]] * 3


def test_half_seconds_are_lost_in_v4() -> None:
    """At four frames a second the pairs of a video stand at one time in 4.57, and one apart in 5.x."""
    types, video = np.array([VIDEO] * 3), [(3, 2, 2)]
    v5, v4 = (placed(types, [], video, PositionRule(release, 2, False, 2), [0.5]) for release in ("v5", "v4"))
    assert v5[0].tolist() == [0, 1, 2]
    assert v4[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("types", "images", "videos"),
    [
        ([TEXT, IMAGE, IMAGE, TEXT], [(1, 2, 2)], []),
        ([IMAGE, IMAGE], [(1, 2, 2), (1, 2, 2)], []),
        ([TEXT, IMAGE], [(1, 2, 2), (1, 2, 2)], []),
        ([TEXT, IMAGE, TEXT, IMAGE], [(1, 2, 2)], []),
        ([TEXT, VIDEO], [(1, 2, 2)], []),
        ([TEXT], [], [(1, 2, 2)]),
    ],
)
def test_grids_that_are_not_the_placeholders_are_named(types: list[int], images: Any, videos: Any) -> None:
    """Too many placeholders, two media in one run, a grid too many, one too few, one of the other kind."""
    with pytest.raises(SampleError) as error:
        placed(np.array(types), images, videos, PositionRule())
    assert error.value.reason == "media_tokens"


@given(
    st.integers(1, 9).flatmap(
        lambda width: st.lists(
            st.tuples(st.lists(st.integers(0, 2), min_size=width, max_size=width), st.integers(1, width)),
            min_size=1,
            max_size=5,
        )
    )
)
def test_stretches_are_what_grouping_gives(rows: list[tuple[list[int], int]]) -> None:
    """Row by row, without what stands behind a row's length; a piece never goes on into the next row."""
    found = stretches(np.array([types for types, _ in rows]), [length for _, length in rows])
    for (types, length), pieces in zip(rows, found, strict=True):
        expected, at = [], 0
        for kind, group in itertools.groupby(types[:length]):
            expected.append((kind, at, at := at + len(list(group))))
        assert pieces == expected
