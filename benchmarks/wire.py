"""Bytes on the wire, beside those of the tensors that a model takes: pixels travel as uint8, and once."""

from __future__ import annotations

import re
import urllib.request
from typing import Any

import torch

from benchmarks.report import Line
from benchmarks.rounds import Ratio
from benchmarks.service import Service
from benchmarks.workload import Workload

MOST = 1 / 6


def measure(workload: Workload) -> tuple[list[Line], dict[str, Any]]:
    """One epoch of one shard over a socket: what the server has sent by its own count, headers and padding included."""
    server = {"shared_memory": False}
    with Service(workload, server, shards=[str(workload.shards[0])]) as running:
        with running.dataset(torch.float32) as dataset:
            tensors = sum(tensor.nbytes for batch in dataset for tensor in batch.values())
        with urllib.request.urlopen(f"{running.url}/metrics") as answer:
            metrics = answer.read().decode()
    sent = sum(float(found) for found in re.findall(r"^owl_stream_sent_bytes_total\S* (\S+)$", metrics, re.MULTILINE))
    share = Ratio.of([sent / tensors])
    line = Line("8", f"`{workload.kind}`: bytes on the wire / of the float32 tensors", share, at_most=MOST)
    return [line], {"sent": sent, "tensors": tensors}
