"""A run of several ranks to which anything may happen in any order, and an oracle that judges what they are given."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from numpy.typing import NDArray

from owl_client import Batch, OwlStreamDataset
from owl_client.transport import Share
from owl_stream.wire import Cursor
from tests.faults.oracle import BrokenPromiseError, Oracle

Place = tuple[Cursor, Share]

Sizes = tuple[int, int]
"""World size and micro-batch size."""

SIZES: tuple[Sizes, ...] = ((1, 4), (1, 2), (1, 1), (2, 2), (2, 1), (4, 1))
"""All that divide a global batch of four."""


class Stage(Protocol):
    """Servers, workers and lines: what a run depends on and what can be harmed."""

    steps_per_epoch: int
    urls: Sequence[str]

    def keys(self, epoch: int, step: int) -> Sequence[str]:
        """The plan."""
        ...

    def arrays(self, place: Place) -> Mapping[str, NDArray[Any]]:
        """The tensors of a micro-batch, from where nothing can be harmed."""
        ...

    def options(self) -> dict[str, Any]:
        """How a dataset reaches this stage."""
        ...

    def kill_server(self, number: int) -> None:
        """SIGKILL, and a new start."""
        ...

    def kill_worker(self, number: int) -> None:
        """SIGKILL of one assembly worker of a server."""
        ...

    def cut(self, chance: random.Random) -> None:
        """End what is open, and the next stream somewhere."""
        ...

    def corrupt(self, chance: random.Random) -> None:
        """Damage the next stream somewhere."""
        ...

    def heal(self) -> None:
        """Between two runs: nothing that was to happen happens any more."""
        ...


class RunMachine(RuleBasedStateMachine):
    """Reads in step on all ranks, checkpoints, loses and regains everything; the oracle follows each read.

    `client` is the class under test.
    """

    make_stage: ClassVar[Callable[[], Stage]]
    client: ClassVar[type[OwlStreamDataset]] = OwlStreamDataset

    def __init__(self) -> None:
        super().__init__()
        self.stage = type(self).make_stage()
        self.stage.heal()
        self.oracle = Oracle(self.stage.steps_per_epoch, self.stage.keys)
        self.urls = list(self.stage.urls)
        self.datasets: list[OwlStreamDataset] = []
        self.sizes: Sizes = SIZES[0]

    @initialize(sizes=st.sampled_from(SIZES))
    def begin(self, sizes: Sizes) -> None:
        """All ranks start, and the state before the first batch is kept."""
        self.sizes = sizes
        self._start(None)
        self.checkpoint()

    @rule(micros=st.integers(1, 7))
    def read(self, micros: int) -> None:
        """Every rank reads so many micro-batches; epochs may end on the way."""
        for _ in range(micros):
            self._read_micro()

    @rule()
    def next_epoch(self) -> None:
        """Every rank reads to the end of its epoch, and is told that it has ended."""
        epoch = self.oracle.trained.cursor.epoch
        while self.oracle.trained.cursor.epoch == epoch:
            self._read_micro()
        for iterator in self.iterators:
            if next(iterator, None) is not None:
                raise BrokenPromiseError(f"a batch behind the end of epoch {epoch}")
        self.oracle.end_of_epoch(epoch)
        self._iterate()

    @rule(rank=st.integers(0, 3))
    def checkpoint(self, rank: int = 0) -> None:
        """Any one rank's state is kept, for all of them."""
        state = json.dumps(self.datasets[rank % len(self.datasets)].state_dict())
        self.saved = json.loads(state), self.oracle.trained.copy(), self.sizes

    @rule()
    def restore(self) -> None:
        """Every rank loads the state, in its own process; what was trained since is lost."""
        state, trained, sizes = self.saved
        if sizes == self.sizes or trained.cursor.micro == 0:
            for dataset in self.datasets:
                dataset.load_state_dict(state)
            self.oracle.trained = trained.copy()
            self._iterate()

    @rule(sizes=st.sampled_from(SIZES))
    def kill_clients(self, sizes: Sizes) -> None:
        """Every rank dies and is started from the checkpoint: at another world size, if that lies between steps."""
        state, trained, saved_sizes = self.saved
        self.sizes = sizes if trained.cursor.micro == 0 else saved_sizes
        self.oracle.trained = trained.copy()
        self._start(state)

    @precondition(lambda self: self.oracle.trained.cursor.micro == 0)
    @rule(sizes=st.sampled_from(SIZES), rank=st.integers(0, 3))
    def change_world_size(self, sizes: Sizes, rank: int) -> None:
        """Between two steps the job is stopped and goes on with other ranks."""
        state = self.datasets[rank % len(self.datasets)].state_dict()
        self.sizes = sizes
        self._start(state)

    @rule()
    def switch_url(self) -> None:
        """The ranks start again where they are, with the servers in another order."""
        self.urls = [*self.urls[1:], self.urls[0]]
        self._start(self.datasets[0].state_dict())

    @rule(number=st.integers(0, 1))
    def kill_server(self, number: int) -> None:
        """A server dies and comes back."""
        self.stage.kill_server(number)

    @rule(number=st.integers(0, 1))
    def kill_worker(self, number: int) -> None:
        """A worker dies and is replaced."""
        self.stage.kill_worker(number)

    @rule(seed=st.integers(0, 1 << 30))
    def cut(self, seed: int) -> None:
        """Connections break."""
        self.stage.cut(random.Random(seed))

    @rule(seed=st.integers(0, 1 << 30))
    def corrupt(self, seed: int) -> None:
        """Bytes change, frames are doubled, reordered, left out."""
        self.stage.corrupt(random.Random(seed))

    def teardown(self) -> None:
        """What was trained on, over the whole run, is the plan from its beginning."""
        try:
            self.oracle.check()
        finally:
            self._stop()

    def _read_micro(self) -> None:
        if self.oracle.trained.cursor[1:] == (0, 0):
            self._iterate()
        batches = []
        for rank, iterator in enumerate(self.iterators):
            batch = next(iterator, None)
            if batch is None:
                raise BrokenPromiseError(f"rank {rank} ended at {self.oracle.trained.cursor}")
            batches.append(batch)
        self.oracle.read(batches, 4 // (self.sizes[0] * self.sizes[1]))
        for batch in batches:
            self._check_tensors(batch)

    def _check_tensors(self, batch: Batch) -> None:
        meta = batch.meta
        cursor, share = Cursor(meta.epoch, meta.step, meta.micro), Share(meta.rank, *self.sizes)
        expected = self.stage.arrays((cursor, share))
        got = {name: tensor.numpy() for name, tensor in batch.items()}
        if got.keys() != expected.keys() or any(not np.array_equal(got[name], expected[name]) for name in got):
            raise BrokenPromiseError(f"other tensors than those of {cursor}, {share}")

    def _start(self, state: dict[str, Any] | None) -> None:
        self._stop()
        world_size, rows = self.sizes
        options = {"dtype": torch.uint8, **self.stage.options()}
        self.datasets = [
            self.client(self.urls, rank=rank, world_size=world_size, micro_batch_size=rows, **options)
            for rank in range(world_size)
        ]
        for dataset in self.datasets:
            if state is not None:
                dataset.load_state_dict(state)
        self._iterate()

    def _iterate(self) -> None:
        self.iterators = [iter(dataset) for dataset in self.datasets]

    def _stop(self) -> None:
        for dataset in self.datasets:
            dataset.close()
        self.datasets = []
