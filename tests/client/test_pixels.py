"""What the client makes of raw pixels: the numbers, to the last bit, and the shapes that `hello` asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from owl_client import Batch
from owl_client.batch import Raw
from owl_client.device import finish, finish_on_device
from owl_client.transport import Share
from owl_stream.wire import Cursor, Normalise
from tests.client.peers import memory_dataset
from tests.client.world import CLIP, PIXELS, World, keys_of

PLAIN_CLIP = replace(CLIP, flatten=False)
IMAGENET = replace(PLAIN_CLIP, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PATCHES, FRAMES = (70, 3, 14, 14), (40, 3, 2, 14, 14)

EVERY: dict[str, tuple[Normalise, tuple[int, ...]]] = {
    "owl3": (PIXELS, (2, 3, 28, 28)),
    "patches": (PLAIN_CLIP, PATCHES),
    "patches_flat": (CLIP, PATCHES),
    "patches_twice": (replace(PLAIN_CLIP, repeat=2), PATCHES),
    "patches_twice_flat": (replace(CLIP, repeat=2), PATCHES),
    "alike_twice_flat": (replace(PIXELS, repeat=2, flatten=True), PATCHES),
    "frames_flat": (CLIP, FRAMES),
    "tiles_larger_than_a_block": (IMAGENET, (2, 3, 150, 150)),
    "tiles_larger_than_a_block_twice": (replace(IMAGENET, repeat=3), (2, 3, 150, 150)),
    "channels_last": (replace(IMAGENET, axis=3), (5, 9, 7, 3)),
    "channels_in_the_middle": (replace(CLIP, axis=2, repeat=2), (4, 5, 3, 6, 2)),
    "channels_and_nothing_else": (replace(CLIP, repeat=2), (6, 3)),
    "none": (replace(CLIP, repeat=2), (0, 3, 14, 14)),
    "empty": (PLAIN_CLIP, (2, 3, 0, 14)),
    "one_channel": (Normalise((0.3,), (0.7,), 1, 1, False), (3, 1, 8, 8)),
}


def levels(shape: tuple[int, ...]) -> torch.Tensor:
    """Raw pixels with every grey level, each channel another order of them."""
    return (torch.arange(int(np.prod(shape))) * 7).remainder(256).to(torch.uint8).reshape(shape)


def exact(pixels: torch.Tensor, how: Normalise) -> NDArray[np.float64]:
    """(x / 255 - mean) / std of each channel in float64, shapes made by numpy."""
    channels = np.moveaxis(pixels.numpy().astype(np.float64), how.axis, -1)
    values = np.moveaxis((channels / 255 - np.array(how.mean)) / np.array(how.std), -1, how.axis)
    if how.repeat > 1:
        values = np.repeat(np.expand_dims(values, how.axis + 1), how.repeat, axis=how.axis + 1)
    flat: tuple[int, ...] = (len(values), int(np.prod(values.shape[1:])))
    shaped: NDArray[np.float64] = values.reshape(flat if how.flatten else values.shape)
    return shaped


@pytest.mark.parametrize(("how", "shape"), EVERY.values(), ids=EVERY)
def test_pixels_are_the_formula_in_the_shape_asked_for(how: Normalise, shape: tuple[int, ...]) -> None:
    """(x / 255 - mean) / std of each channel, to 1e-6 in float32; repeated and flat as numpy does it."""
    pixels, before = levels(shape), levels(shape)
    made, expected = finish(pixels, torch.float32, how), exact(pixels, how)
    assert made.dtype == torch.float32
    assert made.is_contiguous()
    assert made.shape == expected.shape
    np.testing.assert_allclose(made.numpy(), expected, rtol=0, atol=1e-6)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 150, 150), (1, 3, 1, 1), (0, 3, 4, 4)])
def test_normalising_is_the_formula_to_the_last_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """(x / 255 - 0.5) / 0.5 in float32, rounded once, for every grey level, block borders included."""
    pixels = torch.arange(int(np.prod(shape))).remainder(256).to(torch.uint8).reshape(shape)
    assert torch.equal(finish(pixels, dtype, PIXELS), ((pixels.to(torch.float32) / 255 - 0.5) / 0.5).to(dtype))


@pytest.mark.parametrize("on", [finish, finish_on_device])
def test_crops_of_owl3_are_what_they_have_always_been(on: object) -> None:
    """With the mean and deviation 0.5 of every channel: x / 127.5 - 1, to the last bit."""
    pixels = levels((1, 3, 16, 16))
    expected = pixels.numpy().astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert np.array_equal(on(pixels, torch.float32, PIXELS).numpy(), expected)  # type: ignore[operator]


def test_patches_are_repeated_and_flat_as_numpy_does_it() -> None:
    """Of [P, 3, 14, 14] with repeat 2: numpy's repeat along a new axis and its reshape, to the last bit."""
    pixels = levels(PATCHES)
    plain = finish(pixels, torch.float32, PLAIN_CLIP).numpy()
    twice = np.repeat(plain[:, :, None], 2, axis=2)
    assert np.array_equal(finish(pixels, torch.float32, replace(PLAIN_CLIP, repeat=2)).numpy(), twice)
    flat = finish(pixels, torch.float32, replace(CLIP, repeat=2)).numpy()
    assert np.array_equal(flat, twice.reshape(len(pixels), 3 * 2 * 14 * 14))


def test_frames_are_flat_in_the_order_of_their_axes() -> None:
    """Of [V, 3, 2, 14, 14]: numpy's reshape; two frames that are alike are a picture that stands for both."""
    pixels = levels(FRAMES)
    plain = finish(pixels, torch.float32, PLAIN_CLIP).numpy()
    assert np.array_equal(finish(pixels, torch.float32, CLIP).numpy(), plain.reshape(len(pixels), 3 * 2 * 14 * 14))
    patches = levels(PATCHES)
    alike = torch.stack([patches, patches], dim=2)
    assert torch.equal(finish(alike, torch.float32, CLIP), finish(patches, torch.float32, replace(CLIP, repeat=2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("how", "shape"), EVERY.values(), ids=EVERY)
def test_shorter_numbers_are_rounded_once(how: Normalise, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """From the float32 ones."""
    pixels = levels(shape)
    assert torch.equal(finish(pixels, dtype, how), finish(pixels, torch.float32, how).to(dtype))


@pytest.mark.parametrize(("how", "shape"), EVERY.values(), ids=EVERY)
def test_what_is_not_to_be_made_is_left_alone(how: Normalise, shape: tuple[int, ...]) -> None:
    """uint8 asked for stays raw, and what is float already is not normalised twice."""
    raw, done = levels(shape), torch.ones(shape)
    assert finish(raw, torch.uint8, how) is raw
    assert finish(done, torch.float32, how) is done


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("how", "shape"), EVERY.values(), ids=EVERY)
def test_the_path_of_other_devices_gives_the_same_numbers(
    how: Normalise, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """To the last bit where the CPU computes them; and the types and shapes on torch's shape-only device."""
    pixels = levels(shape)
    expected = finish(pixels, dtype, how)
    assert torch.equal(finish_on_device(pixels, dtype, how), expected)
    on_meta = finish(pixels.to("meta"), dtype, how)
    assert (on_meta.device.type, on_meta.dtype, on_meta.shape) == ("meta", dtype, expected.shape)


def test_pixels_with_gaps_between_them_are_taken_too() -> None:
    """Views of a trainer's own."""
    pixels = levels((6, 3, 14, 28))[::2, ..., ::2]
    assert torch.equal(finish(pixels, torch.float32, CLIP), finish(pixels.clone(), torch.float32, CLIP))


TOWERS = World(steps=4, videos=True)
"""Step 0 has images and videos, step 1 neither, step 2 images, step 3 videos."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("layout", ["owl3-240728", "owl3-241101"])
def test_each_tower_has_pixels_of_its_own_where_there_are_any(dtype: torch.dtype, layout: str) -> None:
    """Images and videos, each normalised as `hello` says of them, present and absent."""
    world = replace(TOWERS, layout=layout)
    batches = list(memory_dataset(world, dtype=dtype))
    names = [sorted(name for name in batch if name.startswith("pixel")) for batch in batches]
    assert names == [["pixel_values", "pixel_values_videos"], [], ["pixel_values"], ["pixel_values_videos"]]
    assert [batch.meta.units for batch in batches] == [8, 0, 4, 4]
    for batch in batches:
        arrays = world.arrays(Cursor(0, batch.meta.step, 0), Share(0, 1, 4))
        for name, how in (("pixel_values", PIXELS), ("pixel_values_videos", CLIP)):
            if name in batch:
                assert torch.equal(batch[name], finish(torch.from_numpy(arrays[name]), dtype, how))
    if dtype != torch.uint8:
        assert batches[3]["pixel_values_videos"].shape == (4, 3 * 2 * 2 * 2)


def test_raw_pixels_of_each_tower_are_finished_on_the_way_to_a_device() -> None:
    """Whichever of them a batch has: the same bits as where nothing was left raw."""
    how = Raw(torch.float32, {"pixel_values": PIXELS, "pixel_values_videos": CLIP})
    raw = [Batch(batch, batch.meta, how) for batch in memory_dataset(TOWERS, dtype=torch.uint8)]
    assert keys_of(batch.to("cpu") for batch in raw) == keys_of(memory_dataset(TOWERS))
