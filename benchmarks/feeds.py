"""Every contender by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch

from benchmarks.ceiling import ceiling
from benchmarks.contender import Feed, counted
from benchmarks.hf_processor import processor_loader
from benchmarks.peers import PEERS
from benchmarks.service import service
from benchmarks.usual import Kernels, webdataset_loader
from benchmarks.workload import Workload


def _webdataset(kernels: Kernels) -> Callable[..., Feed]:
    def feed(workload: Workload, stack: ExitStack) -> Feed:
        return Feed(counted(webdataset_loader(workload, kernels)()))

    return feed


FEEDS: dict[str, Callable[..., Feed]] = {
    "kernels": lambda workload, stack: ceiling(workload, stack, draw=False),
    "ceiling": lambda workload, stack: ceiling(workload, stack, draw=True),
    "usual": _webdataset("usual"),
    "equal": _webdataset("ours"),
    "processor": lambda workload, stack: Feed(counted(processor_loader(workload)())),
    "service": service,
    "socket": lambda workload, stack: service(workload, stack, server={"shared_memory": False}),
    "finished": lambda workload, stack: service(workload, stack, dtype=torch.float32),
    "tokenising": lambda workload, stack: service(workload, stack, keep_rows=False),
    **PEERS,
}
"""(workload, stack, **options) -> a feed; what it opens is closed with the stack."""
