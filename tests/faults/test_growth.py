"""What the soak says of a process is so: of its descriptors, its slabs, and of numbers that grow."""

from __future__ import annotations

import os

import pytest

from owl_stream.engine.slabs import SlabPool
from tests.faults.growth import FEW, Growth, Held, Series


def test_descriptors_and_slabs_of_a_process_are_told_apart() -> None:
    """A slab counts with its size, whoever holds it; another file counts as a descriptor."""
    before, pool = Held.of(os.getpid()), SlabPool(1 << 30, lambda number: None)
    slab, other = pool.take(5 << 20), os.open(os.devnull, os.O_RDONLY)
    try:
        slab.memory[:] = bytes(slab.memory.nbytes)
        held = Held.of(os.getpid())
    finally:
        os.close(other)
        pool.give(slab)
        pool.close()
    assert (held.slabs, held.slab_bytes) == (before.slabs + 1, before.slab_bytes + slab.nbytes)
    assert held.descriptors == before.descriptors + 1
    assert held.pss_bytes - before.pss_bytes >= 5 << 20
    assert Held.of(os.getpid()).slab_bytes == before.slab_bytes


@pytest.mark.parametrize(
    ("values", "grew"),
    [
        (range(100), True),
        ([50.0] * 100, False),
        ([*range(20), *[20.0] * 80], False),
        ([50.0, 70.0] * 50, False),
        ([1000.0] * 60 + [1040.0] * 40, False),
        ([1000.0] * 60 + [1060.0] * 40, True),
        ([1.0], False),
    ],
    ids=["always", "flat", "only_at_first", "noise", "four_percent", "six_percent", "one_look"],
)
def test_growth_is_told_from_noise(values: list[float], grew: bool) -> None:
    """The last fifth is held against the second: what fills at first is no growth."""
    assert Series.of("things", values, 5).grew is grew


def test_a_process_that_keeps_descriptors_is_found() -> None:
    """One more with every look."""
    growth, kept = Growth("this", os.getpid()), list[int]()
    try:
        for number in range(FEW):
            kept += [os.open(os.devnull, os.O_RDONLY) for _ in range(1 + number // FEW)]
            growth.seen.append(Held.of(os.getpid()))
        assert ["descriptors" in failure for failure in growth.failures()] == [True]
    finally:
        for descriptor in kept:
            os.close(descriptor)
