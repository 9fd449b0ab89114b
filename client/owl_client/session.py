"""What one process shares between its epochs: the servers, what they have, receive memory and counters."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from owl_client.buffers import ReceiveMemory
from owl_client.device import make_placer, resolve_device
from owl_client.failover import Backoff, Failover
from owl_client.metrics import ReadingMetrics
from owl_client.order import Order, describe_differences, name_differences
from owl_client.receiver import Receiver
from owl_client.source import BatchSource, Ready
from owl_client.state import State
from owl_client.stats import Counters
from owl_client.stream import EpochStream
from owl_client.transport import Description, Interrupt, Transport
from owl_stream.errors import OwlStreamError, StateMismatchError
from owl_stream.wire import Limits


@dataclass(frozen=True)
class Settings:
    """What the caller chose, checked."""

    urls: tuple[str, ...]
    dataset: str
    device: torch.device
    dtype: torch.dtype
    prefetch: int
    prefetch_bytes: int
    give_up_after_s: float
    limits: Limits
    transport: Transport
    backoff: Backoff


class Session:
    """Belongs to one process: a fork must make its own from `description`."""

    def __init__(self, settings: Settings, pin: Callable[[str], bool], description: Description | None = None) -> None:
        self.pid = os.getpid()
        self.counters = counters = Counters()
        self.metrics = ReadingMetrics(counters.trained, lambda: counters.wait_s)
        self.description = description
        self._settings, self._pin = settings, pin
        self._failover = Failover(settings.urls, settings.give_up_after_s, settings.backoff)
        self._memory: ReceiveMemory | None = None

    def describe(self, expected: State | None = None) -> Description:
        """The dataset, from the first server that has it: with `expected`, the same data as that state's.

        Raises:
            StateMismatchError: all servers have other data; the differences are named.
            OwlStreamError: no server gave a whole description for `give_up_after_s`, or all refused.
        """
        if self.description is not None and (expected is None or self.description.fingerprint == expected.fingerprint):
            return self.description
        self._failover.progressed()
        interrupt = Interrupt(self._failover.deadline)
        while True:
            url = self._failover.url
            try:
                description = self._settings.transport.describe(url, self._settings.dataset, interrupt)
                self._refuse_other(url, description, expected)
            except OwlStreamError as exc:
                self._failover.failed(exc, interrupt)
            else:
                self.description = description
                return description

    def open(self, order: Order, *, in_worker: bool) -> Receiver[Ready]:
        """Begin receiving; in DataLoader workers on the CPU, where CUDA must not be touched."""
        device, dtype, raw_for = self._settings.device, self._settings.dtype, None
        if in_worker and device.type != "cpu":
            device, dtype, raw_for = torch.device("cpu"), torch.uint8, self._settings.dtype
        device = resolve_device(device)
        if self._memory is None:
            self._memory = ReceiveMemory(pinned=device.type == "cuda")
        interrupt = Interrupt(self._failover.deadline)
        stream = EpochStream(
            self._settings.transport,
            self._failover,
            order,
            memory=self._memory,
            limits=self._settings.limits,
            interrupt=interrupt,
            counters=self.counters,
        )
        source = BatchSource(stream, order, make_placer(device, dtype), raw_for, self.counters, leaves=in_worker)
        return Receiver(source, interrupt, self._settings.prefetch, self._settings.prefetch_bytes)

    def _refuse_other(self, url: str, got: Description, expected: State | None) -> None:
        if expected is not None:
            if got.fingerprint != expected.fingerprint:
                differences = name_differences(
                    (expected.fingerprint, dict(expected.components)), (got.fingerprint, dict(got.components))
                )
                raise StateMismatchError(
                    f"{url}: the state belongs to other data: {describe_differences(differences)}; "
                    f"force=True goes on all the same",
                    differences,
                )
        elif not self._pin(identity(got)):
            raise StateMismatchError(
                f"{url}: another process of this loader reads data with another fingerprint or assembly id than "
                f"{got.fingerprint}, {got.assembly}; give all servers the same data, recipe and versions"
            )


def identity(description: Description) -> str:
    """What must be equal wherever a job's batches come from."""
    return f"{description.fingerprint}/{description.assembly}"
