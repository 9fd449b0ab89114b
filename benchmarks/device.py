"""The client's way onto a GPU: is it right, how fast is it, and does it hold a trainer up or keep memory?

    python -m benchmarks.device --device cuda

It needs the repository, torch and a GPU, and takes less than five minutes. Batches are bytes in memory that are copied
into receive memory, as from a socket; servers have their own benchmarks. `--device cpu` computes what needs no GPU, and
names what it leaves out.
"""

from __future__ import annotations

import argparse
import json
import queue
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owl_client.buffers import ReceiveMemory
from owl_client.device import HostPlacer, Placed, finish_on_device, make_placer, resolve_device
from owl_stream.wire import Normalise

CLIP, SIGLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)), ((0.5,) * 3, (0.5,) * 3)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Family:
    """Pixels as they come over the wire, uint8: the shape of one unit, and what the client makes of them."""

    unit: tuple[int, ...]
    normalise: Normalise


FAMILIES = {
    "owl3": Family((3, 378, 378), Normalise(*SIGLIP, axis=1, repeat=1, flatten=False)),
    "qwen2_5_vl": Family((3, 14 * 14), Normalise(*CLIP, axis=1, repeat=2, flatten=True)),
    "qwen2_5_vl, videos": Family((3, 2, 14 * 14), Normalise(*CLIP, axis=1, repeat=1, flatten=True)),
    "qwen3_vl": Family((3, 16 * 16), Normalise(*SIGLIP, axis=1, repeat=2, flatten=True)),
    "gemma3": Family((3, 896, 896), Normalise(*SIGLIP, axis=1, repeat=1, flatten=False)),
    "internvl": Family((3, 448, 448), Normalise(*IMAGENET, axis=1, repeat=1, flatten=False)),
}
"""Shapes and numbers of the released processors (docs/layouts.md)."""


class Frames:
    """Batches of one family's pixels and some token ids, again and again, from receive memory onto a device."""

    def __init__(self, family: Family, nbytes: int, device: torch.device, dtype: torch.dtype) -> None:
        units = max(1, nbytes // int(np.prod(family.unit)))
        rng = np.random.default_rng(0)
        self.shape = (units, *family.unit)
        self._pixels = rng.integers(0, 256, self.shape, dtype=np.uint8).reshape(-1)
        self._ids = rng.integers(0, 1000, (8, 1024), dtype=np.int64)
        self._how = {"pixel_values": family.normalise}
        self.memory = ReceiveMemory(pinned=device.type == "cuda")
        self.nbytes = self._pixels.nbytes + self._ids.nbytes
        self._placer = make_placer(device, dtype)

    def __enter__(self) -> Frames:
        self._placer.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._placer.__exit__(*exc)

    def next(self) -> Placed:
        """One more batch, on its way."""
        slab = np.frombuffer(self.memory.take(self.nbytes), np.uint8)
        slab[: len(self._pixels)] = self._pixels
        slab[len(self._pixels) :] = self._ids.reshape(-1).view(np.uint8)
        views = {
            "pixel_values": slab[: len(self._pixels)].reshape(self.shape),
            "input_ids": slab[len(self._pixels) :].view(np.int64).reshape(self._ids.shape),
        }
        return self._placer.place(views, self._how)


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What `work` takes, to its end on the device."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def equality(device: torch.device) -> dict[str, float]:
    """By family: the greatest difference between pixels finished on the device and on the CPU, over both dtypes.

    0 is expected in float32, and a rounding of bfloat16 at most.
    """
    found: dict[str, float] = {}
    for name, family in FAMILIES.items():
        rng = np.random.default_rng(1)
        raw = rng.integers(0, 256, (5, *family.unit), dtype=np.uint8)
        how = {"pixel_values": family.normalise}
        for dtype in (torch.float32, torch.bfloat16):
            with HostPlacer(torch.device("cpu"), dtype) as host:
                expected = host.place({"pixel_values": raw}, how).claim()["pixel_values"]
            if device.type == "cuda":
                with make_placer(device, dtype) as placer:
                    got = placer.place({"pixel_values": raw}, how).claim()["pixel_values"].cpu()
            else:
                got = finish_on_device(torch.from_numpy(raw), dtype, family.normalise)
            if got.shape != expected.shape or got.dtype != expected.dtype:
                raise AssertionError(f"{name}: expected {expected.shape} {expected.dtype}, got {got.shape} {got.dtype}")
            difference = (got.float() - expected.float()).abs().max().item()
            found[name] = max(found.get(name, 0.0), difference)
    return found


def bandwidth(device: torch.device, nbytes: int, copies: int) -> dict[str, float]:
    """GB/s onto the device of raw pixels, beside bare copies of as many pinned bytes."""
    pinned = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(nbytes, dtype=torch.uint8, device=device)
    ours, bare = [], []
    with Frames(FAMILIES["internvl"], nbytes, device, torch.uint8) as frames:
        placed = frames.next()
        views = {"pixel_values": np.frombuffer(frames.memory.take(nbytes), np.uint8)}
        for _ in range(5):
            taken = seconds(lambda: [frames._placer.place(views, {}) for _ in range(copies)], device)
            ours.append(copies * nbytes / taken / 1e9)
            taken = seconds(lambda: [target.copy_(pinned, non_blocking=True) for _ in range(copies)], device)
            bare.append(copies * nbytes / taken / 1e9)
        del placed
    mine, theirs = statistics.median(ours), statistics.median(bare)
    return {"gb_per_s": mine, "bare_gb_per_s": theirs, "ratio": mine / theirs}


def hot_path(device: torch.device, nbytes: int, batches: int) -> dict[str, str]:
    """Whether a batch's way waits for the device anywhere, and whether a CUDA graph can be captured meanwhile."""
    found = {"waits": "never", "graph": "captured"}
    with Frames(FAMILIES["qwen2_5_vl"], nbytes, device, torch.bfloat16) as frames:
        frames.next().claim()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(batches):
                frames.next().claim()
        except RuntimeError as exc:
            found["waits"] = str(exc)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    matrix, graph = torch.randn(512, 512, device=device), torch.cuda.CUDAGraph()
    source = received(Frames(FAMILIES["qwen2_5_vl"], nbytes, device, torch.bfloat16), batches)
    next(source)
    wait(device)
    try:
        # The default mode forbids other threads to allocate, which those that receive do.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            torch.mm(matrix, matrix)
        for placed in source:
            placed.claim()
            graph.replay()
        wait(device)
    except RuntimeError as exc:
        found["graph"] = str(exc)
    return found


def overlap(device: torch.device, nbytes: int, batches: int) -> dict[str, float]:
    """What share of the shorter of copying and computing is hidden behind the other; 1 is all of it."""
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)

    def compute() -> None:
        for _ in range(20 * batches):
            torch.mm(matrix, matrix)

    with Frames(FAMILIES["qwen2_5_vl"], nbytes, device, torch.bfloat16) as frames:

        def copy() -> None:
            for _ in range(batches):
                frames.next()

        def both() -> None:
            thread = threading.Thread(target=copy_elsewhere)
            thread.start()
            compute()
            thread.join()

        def copy_elsewhere() -> None:
            torch.cuda.set_device(device)
            copy()

        for work in (copy, compute):
            seconds(work, device)
        alone = [seconds(copy, device), seconds(compute, device)]
        together = seconds(both, device)
    return {
        "copy_s": alone[0],
        "compute_s": alone[1],
        "together_s": together,
        "hidden": (sum(alone) - together) / min(alone),
    }


def received(frames: Frames, batches: int) -> Iterator[Placed]:
    """Batches from a thread of its own that is two ahead, as the client's are."""
    ready: queue.Queue[Placed | None] = queue.Queue(2)

    def receive() -> None:
        with frames:
            try:
                for _ in range(batches):
                    ready.put(frames.next())
            finally:
                ready.put(None)

    thread = threading.Thread(target=receive)
    thread.start()
    while (placed := ready.get()) is not None:
        yield placed
    thread.join()


def idle(device: torch.device, nbytes: int, batches: int, loads: Sequence[float]) -> list[dict[str, float]]:
    """How long a trainer takes longer than with batches that lie on the device already, by the load of its computing.

    A load of 0.5 computes half as long as a batch takes to come, 1 as long.
    """
    side = 2048 if device.type == "cuda" else 256
    matrix = torch.randn(side, side, device=device)
    one = min(seconds(lambda: torch.mm(matrix, matrix), device) for _ in range(20))

    def train(source: Iterator[Any], products: int) -> float:
        def loop() -> None:
            for batch in source:
                tensors = batch.claim() if isinstance(batch, Placed) else batch
                tensors["pixel_values"].sum()
                for _ in range(products):
                    torch.mm(matrix, matrix)

        return seconds(loop, device)

    def fresh() -> Frames:
        return Frames(FAMILIES["qwen2_5_vl"], nbytes, device, torch.bfloat16)

    train(received(fresh(), 4), 0)
    a_batch = train(received(fresh(), batches), 0) / batches
    found = []
    with fresh() as frames:
        resident = frames.next().claim()
        for load in loads:
            products = round(load * a_batch / one)
            ours = train(received(fresh(), batches), products)
            there = train(iter([resident] * batches), products)
            found.append({"load": load, "s": ours, "resident_s": there, "idle": 1 - there / ours})
    return found


def leak(device: torch.device, nbytes: int, batches: int) -> dict[str, float]:
    """Bytes more after so many batches than after the first tenth: of the device, and the process's greatest."""

    def held() -> tuple[int, int]:
        wait(device)
        on_device = torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
        return on_device, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    begun = (0, 0)
    with Frames(FAMILIES["qwen3_vl"], nbytes, device, torch.bfloat16) as frames:
        for number in range(batches):
            frames.next().claim()
            if number == batches // 10:
                begun = held()
        ended = held()
    return {"batches": batches, "device_bytes": ended[0] - begun[0], "process_bytes": ended[1] - begun[1]}


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-mb", type=float, default=32.0)
    parser.add_argument("--quick", action="store_true", help="a tenth of the batches")
    parser.add_argument("--json", type=Path, help="where the report goes")
    chosen = parser.parse_args()
    device, nbytes = resolve_device(torch.device(chosen.device)), int(chosen.batch_mb * 1e6)
    few = 10 if chosen.quick else 1
    gpu = device.type == "cuda"
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "torch": torch.__version__,
        "equality": equality(device),
        "hot_path": hot_path(device, nbytes, 100 // few) if gpu else None,
        "bandwidth": bandwidth(device, nbytes, 100 // few) if gpu else None,
        "overlap": overlap(device, nbytes, 50 // few) if gpu else None,
        "idle": idle(device, nbytes, 100 // few, (0.0, 0.5, 1.0)),
        "leak": leak(device, nbytes, 1000 // few),
    }
    show(report)
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2))


def show(report: dict[str, Any]) -> None:
    """Print it."""
    print(f"{report['device']}, torch {report['torch']}")
    for name, difference in report["equality"].items():
        print(f"  {name:20} differs from the CPU's pixels by {difference:.2g} at most")
    for name, line in (
        ("hot path", "waits for the device: {waits}; a graph meanwhile: {graph}"),
        ("bandwidth", "{gb_per_s:.1f} GB/s onto the device, bare copies {bare_gb_per_s:.1f}, ratio {ratio:.2f}"),
        ("overlap", "{hidden:.2f} of the shorter one hidden (copy {copy_s:.3f} s, compute {compute_s:.3f} s)"),
    ):
        found = report[name.replace(" ", "_")]
        print(f"  {name:20} {line.format(**found) if found else 'not measured: needs a GPU'}")
    for row in report["idle"]:
        print("  idle at load {load:.0%}: {idle:.1%} (ours {s:.3f} s, resident {resident_s:.3f} s)".format(**row))
    print(
        "  after {batches} batches: {device_bytes} bytes of the device, {process_bytes} of the process".format(
            **report["leak"]
        )
    )


if __name__ == "__main__":
    main()
