"""Every contender by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch

from benchmarks.ceiling import ceiling
from benchmarks.contender import Feed, Read
from benchmarks.service import service
from benchmarks.usual import Kernels, webdataset_loader
from benchmarks.workload import Workload


def counted(batches: Iterator[dict[str, torch.Tensor]]) -> Iterator[Read]:
    """Batches of an in-process loader, as counts."""
    for batch in batches:
        yield Read(len(batch["input_ids"]), sum(tensor.nbytes for tensor in batch.values()))


def _webdataset(workload: Workload, stack: ExitStack, kernels: Kernels) -> Feed:
    return Feed(counted(webdataset_loader(workload, kernels)()))


FEEDS: dict[str, Callable[..., Feed]] = {
    "usual": lambda workload, stack, **_: _webdataset(workload, stack, "usual"),
    "equal": lambda workload, stack, **_: _webdataset(workload, stack, "ours"),
    "ceiling": lambda workload, stack, **_: ceiling(workload, stack),
    "service": service,
}
"""(workload, stack, **options) -> a feed; what it opens is closed with the stack."""
