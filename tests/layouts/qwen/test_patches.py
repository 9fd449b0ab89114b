"""Pictures and clips as patches, against what the released processors make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from owl_stream.layouts.qwen.patches import write_frame, write_patches
from owl_stream.layouts.qwen.sizes import fit
from tests.layouts.qwen.released import video_processor

Bytes = NDArray[np.uint8]

SETTINGS: dict[int, dict[str, Any]] = {
    14: {"patch_size": 14, "min_pixels": 56 * 56, "max_pixels": 28 * 28 * 64},
    16: {
        "patch_size": 16,
        "min_pixels": 64 * 64,
        "max_pixels": 32 * 32 * 64,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
}
"""Those of Qwen2-VL and Qwen2.5-VL, and of Qwen3-VL and Qwen3.5, with smaller pictures."""


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture in which every pixel differs from the next."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def finished(patches: Bytes, processor: Qwen2VLImageProcessorPil) -> NDArray[np.float32]:
    """What the device makes of a still's patches: normalised, repeated in time, flat."""
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    pixels = (patches.astype(np.float32) / 255 - mean) / std
    return np.repeat(pixels[:, :, None], 2, axis=2).reshape(len(patches), -1)


@pytest.mark.parametrize("side", SETTINGS)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_still_is_what_the_processor_makes_of_it(side: int, width: int, height: int, seed: int) -> None:
    """Fitted, resized by Pillow and cut: all pixel values to 1e-6, and the grid."""
    if max(width, height) > 200 * min(width, height):
        return
    processor, picture = Qwen2VLImageProcessorPil(**SETTINGS[side]), noise(width, height, seed)
    expected = processor(picture, return_tensors="np")
    limits = SETTINGS[side]["min_pixels"], SETTINGS[side]["max_pixels"]
    size = fit(width, height, 2 * side, *limits)
    pixels = np.asarray(picture.convert("RGBX").resize(size, Image.Resampling.BICUBIC))
    out = np.empty((size[0] // side * (size[1] // side), 3, side, side), np.uint8)
    write_patches(pixels, out, merge=2)
    assert expected["image_grid_thw"].tolist() == [[1, size[1] // side, size[0] // side]]
    assert expected["pixel_values"].shape == (len(out), 3 * 2 * side * side)
    np.testing.assert_allclose(finished(out, processor), expected["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("side", "merge"), [(14, 2), (16, 2), (14, 1), (7, 3)])
def test_patches_stand_in_merge_block_order(side: int, merge: int) -> None:
    """Each place holds the pixels that the order says, for any patch and block."""
    blocks_down, blocks_across = 3, 5
    shape = (blocks_down * merge * side, blocks_across * merge * side)
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 4), dtype=np.uint8)
    out = np.empty((blocks_down * blocks_across * merge * merge, 3, side, side), np.uint8)
    write_patches(pixels, out, merge)
    places = [
        ((row * merge + i) * side, (column * merge + j) * side)
        for row in range(blocks_down)
        for column in range(blocks_across)
        for i in range(merge)
        for j in range(merge)
    ]
    for patch, (top, left) in zip(out, places, strict=True):
        np.testing.assert_array_equal(patch, pixels[top : top + side, left : left + side, :3].transpose(2, 0, 1))


def test_patches_are_written_where_the_batch_has_them() -> None:
    """A part of a larger array is filled, what lies beside it stays, and pixels may be a cut of a larger picture."""
    picture = np.random.default_rng(2).integers(0, 256, (60, 90, 4), dtype=np.uint8)
    batch, alone = np.full((14, 3, 14, 14), 7, np.uint8), np.empty((8, 3, 14, 14), np.uint8)
    write_patches(picture[2:30, 5:61], batch[3:11], merge=2)
    write_patches(np.ascontiguousarray(picture[2:30, 5:61]), alone, merge=2)
    np.testing.assert_array_equal(batch[3:11], alone)
    assert (batch[:3] == 7).all()
    assert (batch[11:] == 7).all()


@pytest.mark.parametrize("side", SETTINGS)
@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_a_clip_is_what_the_video_processor_cuts(side: int, frames: int) -> None:
    """The released `patchify` on the same frames, odd numbers too: the last one is repeated."""
    clip = np.random.default_rng(frames).integers(0, 256, (frames, 4 * side, 6 * side, 4), dtype=np.uint8)
    processor = video_processor("qwen2_vl" if side == 14 else "qwen3_vl")
    videos = torch.from_numpy(clip[None, ..., :3]).permute(0, 1, 4, 2, 3).contiguous()
    expected, pairs, high, wide = processor.patchify(videos, patch_size=side, merge_size=2, temporal_patch_size=2)
    out = np.empty((pairs * high * wide, 3, 2, side, side), np.uint8)
    for index in reversed(range(frames)):
        write_frame(clip[index], out, index, frames, merge=2)
    np.testing.assert_array_equal(out.reshape(len(out), -1), expected[0].numpy())


def test_an_array_that_would_be_copied_is_refused() -> None:
    """Writing to a reshaped copy would lose the picture without a word."""
    with pytest.raises(AssertionError):
        write_patches(np.zeros((28, 28, 4), np.uint8), np.zeros((8, 3, 14, 14), np.uint8)[::2], merge=2)
