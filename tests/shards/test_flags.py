"""One bit a sample, and from it the ids of both pools."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from owl_stream.shards.flags import Flags, FlagWriter, flag_bytes


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("samples", [0, 1, 63, 64, 65, 200_000])
def test_ids_are_found_whatever_the_pieces_were(tmp_path: Path, samples: int, share: float) -> None:
    """Written in pieces of any length, each pool's ids in any order are what a list of them would say."""
    rng = np.random.default_rng(samples)
    flags = rng.random(samples) < share
    file = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        writer = FlagWriter(file, 8)
        for piece in np.split(flags, np.sort(rng.integers(0, samples + 1, 7))):
            writer.write(piece)
        writer.finish()
        raw = os.pread(file, 1 << 20, 8)
    finally:
        os.close(file)
    assert len(raw) == flag_bytes(samples)
    for flag in (True, False):
        listed = np.flatnonzero(flags == flag)
        positions = rng.permutation(len(listed))
        assert (Flags(raw).ids(flag, positions) == listed[positions]).all()
