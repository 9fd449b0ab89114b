"""From receive memory to tensors where the model is: copies, and the normalisation that the wire leaves out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from owl_client.buffers import CopyLedger
from owl_stream.errors import ConfigError
from owl_stream.wire import Normalise

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)
"""What pixels can be delivered as; uint8 are the raw ones."""

_BLOCK = 1 << 15
"""Elements made at a time on the CPU: they stay in cache, and torch starts no threads for so few."""

Views = Mapping[str, NDArray[Any]]
Tensors = dict[str, torch.Tensor]
Pixels = Mapping[str, Normalise]
"""Which tensors are raw pixels, and what is to be done with them."""


def parse_device(device: str | torch.device) -> torch.device:
    """The device meant, whether it is there or not.

    Raises:
        ConfigError: torch knows no such device.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as exc:
        raise ConfigError(f"device: expected a torch device such as 'cpu' or 'cuda:0', got {device!r}") from exc


def resolve_device(device: torch.device) -> torch.device:
    """The device with its index, so that a thread with another current device means the same one.

    Raises:
        ConfigError: it is not there.
    """
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(f"device: {device} was asked for, but torch sees no CUDA device; pass device='cpu'")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(f"device: expected an index below {torch.cuda.device_count()}, got {device}")
    return torch.device("cuda", index)


def check_dtype(dtype: torch.dtype) -> torch.dtype:
    """`dtype` if pixels can be delivered as it.

    Raises:
        ConfigError: they cannot.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(map(str, DTYPES))}, got {dtype}")
    return dtype


def finish(pixels: torch.Tensor, dtype: torch.dtype, how: Normalise) -> torch.Tensor:
    """Raw uint8 pixels as the model takes them: see `Normalise`; in float32, rounded once to `dtype`.

    uint8 leaves them as they are.
    """
    if dtype == torch.uint8 or pixels.dtype != torch.uint8:
        return pixels
    if pixels.device.type == "cpu":
        return _finish_on_cpu(pixels.contiguous().numpy(), dtype, how)
    return finish_on_device(pixels, dtype, how)


def finish_on_device(pixels: torch.Tensor, dtype: torch.dtype, how: Normalise) -> torch.Tensor:
    """`finish` where torch computes best with whole tensors; the numbers are the same."""
    shape = [1] * pixels.ndim
    shape[how.axis] = len(how.mean)
    numbers = (torch.tensor(each, dtype=torch.float32, device="cpu").view(shape) for each in _scale_and_shift(how))
    # a copy that waits would wait for the pixels too; so few bytes CUDA takes at once, from any memory
    scale, shift = (each.to(pixels.device, non_blocking=pixels.is_cuda) for each in numbers)
    values = pixels.to(torch.float32).div_(scale).sub_(shift).to(dtype)
    if how.repeat > 1:
        values = values.unsqueeze(how.axis + 1).repeat_interleave(how.repeat, dim=how.axis + 1)
    return values.flatten(1) if how.flatten else values


def _scale_and_shift(how: Normalise) -> tuple[list[float], list[float]]:
    """With one division: (x / 255 - mean) / std is x / (255 std) - mean / std."""
    pairs = list(zip(how.mean, how.std, strict=True))
    return [255 * std for _, std in pairs], [mean / std for mean, std in pairs]


def _finish_on_cpu(raw: NDArray[np.uint8], dtype: torch.dtype, how: Normalise) -> torch.Tensor:
    """By blocks of whole pictures or parts of them, which stay in a cache."""
    shape = [*raw.shape[: how.axis + 1], *([how.repeat] if how.repeat > 1 else []), *raw.shape[how.axis + 1 :]]
    out = _fresh([shape[0], math.prod(shape[1:])] if how.flatten else shape, dtype)
    outer, channels, inner = math.prod(raw.shape[: how.axis]), raw.shape[how.axis], math.prod(raw.shape[how.axis + 1 :])
    scale, shift = (np.array(each, np.float32) for each in _scale_and_shift(how))
    if how.repeat == 1 and len({*zip(scale.tolist(), shift.tolist(), strict=True)}) == 1:
        _normalise_blocks(raw.reshape(-1, 1), out.view(-1, 1, 1, 1), scale[:1], shift[:1])
        return out
    parts, targets = raw.reshape(outer, channels, inner), out.view(outer, channels, how.repeat, inner)
    if channels * how.repeat * inner <= _BLOCK:
        each = np.repeat(scale, inner), np.repeat(shift, inner)
        _normalise_blocks(raw.reshape(outer, channels * inner), targets, *each)
        return out
    for place, channel in np.ndindex(outer, channels):  # a picture is more than a block, so each channel by itself
        one, target = parts[place, channel].reshape(-1, 1), targets[place, channel].T[:, None, :, None]
        _normalise_blocks(one, target, scale[channel : channel + 1], shift[channel : channel + 1])
    return out


def _fresh(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Memory by numpy, which asks for huge pages: torch's own costs more to be touched first than to be filled."""
    return torch.from_numpy(np.empty(shape, f"i{dtype.itemsize}")).view(dtype)


def _normalise_blocks(
    raw: NDArray[np.uint8], out: torch.Tensor, scale: NDArray[np.float32], shift: NDArray[np.float32]
) -> None:
    """`raw`: [n, channels * inner]; `out`: [n, channels, repeat, inner]; `scale`, `shift`: as a row of `raw`, or one.

    Converting first is faster than dividing bytes. Numpy is faster than torch, but has no bfloat16.
    """
    rows = max(1, _BLOCK // max(1, math.prod(out.shape[1:])))
    spare = np.empty((min(rows, len(raw)), raw.shape[1]), np.float32)
    direct = out.numpy() if out.dtype == torch.float32 else None
    once = direct[:, :, 0].reshape(raw.shape) if direct is not None and out.shape[2] == 1 else None
    for start in range(0, len(raw), rows):
        part = slice(start, min(start + rows, len(raw)))
        block = spare[: part.stop - start] if once is None else once[part]
        block[...] = raw[part]
        np.divide(block, scale, out=block)
        np.subtract(block, shift, out=block)
        if once is None:
            values = block.reshape(len(block), out.shape[1], 1, out.shape[3])
            if direct is None:
                out[part].copy_(torch.from_numpy(values))
            else:
                direct[part] = values


class Placed:
    """Tensors on their device, perhaps still being copied there."""

    def __init__(self, tensors: Tensors, event: torch.cuda.Event | None = None) -> None:
        self._tensors, self._event = tensors, event

    def claim(self) -> Tensors:
        """The tensors, usable on the caller's current stream; to be called in the thread that will use them."""
        if self._event is not None:
            stream = torch.cuda.current_stream(next(iter(self._tensors.values())).device)
            stream.wait_event(self._event)
            for tensor in self._tensors.values():
                tensor.record_stream(stream)  # else the allocator could hand the memory out while this stream reads
        return self._tensors


class Placer(Protocol):
    """Turns the views of one payload into tensors that own their memory. Used by one thread, within `with`."""

    def __enter__(self) -> Placer: ...

    def __exit__(self, *exc: object) -> None: ...

    def place(self, views: Views, pixels: Pixels) -> Placed:
        """Tensors of the views; `pixels` says which of them are raw pixels, and what is to be done with them."""
        ...


class HostPlacer:
    """For the CPU, and for devices that have no asynchronous copy.

    Raw pixels stay where they were received. Normalised ones are new; then the small tensors beside them are copied
    too, so that a kept `input_ids` does not hold a whole payload.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype

    def __enter__(self) -> HostPlacer:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is under way."""

    def place(self, views: Views, pixels: Pixels) -> Placed:
        """See `Placer.place`."""
        tensors = {name: torch.from_numpy(view) for name, view in views.items()}
        if self._device.type != "cpu":
            tensors = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        elif not tensors.keys() & pixels.keys() or self._dtype == torch.uint8:
            return Placed(tensors)
        else:
            tensors = {name: tensor if name in pixels else tensor.clone() for name, tensor in tensors.items()}
        return Placed(_finished(tensors, self._dtype, pixels))


def _finished(tensors: Tensors, dtype: torch.dtype, pixels: Pixels) -> Tensors:
    return {name: finish(t, dtype, pixels[name]) if name in pixels else t for name, t in tensors.items()}


class CudaPlacer:
    """Copies from pinned memory on a stream of its own, beside the model's work, and normalises there."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._copies = CopyLedger()

    def __enter__(self) -> CudaPlacer:
        torch.cuda.set_device(self._device)  # of this thread only
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call] # torch leaves it untyped
        return self

    def __exit__(self, *exc: object) -> None:
        self._copies.drain()

    def place(self, views: Views, pixels: Pixels) -> Placed:
        """See `Placer.place`."""
        self._copies.reap()
        hosts = {name: torch.from_numpy(view) for name, view in views.items()}
        event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
        with torch.cuda.stream(self._stream):
            tensors = {name: host.to(self._device, non_blocking=True) for name, host in hosts.items()}
            tensors = _finished(tensors, self._dtype, pixels)
            event.record(self._stream)
        self._copies.keep(event, hosts)
        return Placed(tensors, event)


def make_placer(device: torch.device, dtype: torch.dtype) -> Placer:
    """The placer for a resolved device."""
    return CudaPlacer(device, dtype) if device.type == "cuda" else HostPlacer(device, dtype)
