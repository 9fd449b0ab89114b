"""From receive memory to tensors where the model is: copies, and the normalisation that the wire leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from owl_client.buffers import CopyLedger
from owl_stream.errors import ConfigError

PIXELS = "pixel_values"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)
"""What `pixel_values` can be delivered as; uint8 are the raw pixels."""

_BLOCK = 1 << 15
"""Elements normalised at a time on the CPU: they stay in cache, and torch starts no threads for so few."""

Views = Mapping[str, NDArray[Any]]
Tensors = dict[str, torch.Tensor]


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


def normalise(pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(x / 255 - 0.5) / 0.5 of raw uint8 pixels, in float32, rounded once to `dtype`; uint8 leaves them as they are."""
    if dtype == torch.uint8 or pixels.dtype != torch.uint8:
        return pixels
    if pixels.device.type != "cpu":
        # x / 127.5 - 1 is the same number: halving the divisor and doubling the result are exact
        return pixels.to(torch.float32).div_(127.5).sub_(1.0).to(dtype)
    out = torch.empty(pixels.shape, dtype=dtype, device="cpu")
    _normalise_blocks(pixels.contiguous().numpy().reshape(-1), out.view(-1))
    return out


def _normalise_blocks(raw: NDArray[np.uint8], out: torch.Tensor) -> None:
    direct = out.numpy() if out.dtype == torch.float32 else None
    spare = np.empty(min(_BLOCK, raw.size), np.float32)
    for start in range(0, raw.size, _BLOCK):
        part = slice(start, min(start + _BLOCK, raw.size))
        block = spare[: part.stop - start] if direct is None else direct[part]
        np.divide(raw[part], np.float32(127.5), out=block, dtype=np.float32)
        np.subtract(block, np.float32(1.0), out=block)
        if direct is None:
            out[part].copy_(torch.from_numpy(block))


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

    def place(self, views: Views) -> Placed:
        """Tensors of the views."""
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

    def place(self, views: Views) -> Placed:
        """See `Placer.place`."""
        tensors = {name: torch.from_numpy(view) for name, view in views.items()}
        if self._device.type != "cpu":
            tensors = {name: tensor.to(self._device) for name, tensor in tensors.items()}
            return Placed({name: self._finished(name, tensor) for name, tensor in tensors.items()})
        if PIXELS not in tensors or self._dtype == torch.uint8:
            return Placed(tensors)
        return Placed(
            {name: self._finished(name, t) if name == PIXELS else t.clone() for name, t in tensors.items()},
        )

    def _finished(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return normalise(tensor, self._dtype) if name == PIXELS else tensor


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

    def place(self, views: Views) -> Placed:
        """See `Placer.place`."""
        self._copies.reap()
        hosts = {name: torch.from_numpy(view) for name, view in views.items()}
        event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
        with torch.cuda.stream(self._stream):
            tensors = {name: host.to(self._device, non_blocking=True) for name, host in hosts.items()}
            if PIXELS in tensors:
                tensors[PIXELS] = normalise(tensors[PIXELS], self._dtype)
            event.record(self._stream)
        self._copies.keep(event, hosts)
        return Placed(tensors, event)


def make_placer(device: torch.device, dtype: torch.dtype) -> Placer:
    """The placer for a resolved device."""
    return CudaPlacer(device, dtype) if device.type == "cuda" else HostPlacer(device, dtype)
