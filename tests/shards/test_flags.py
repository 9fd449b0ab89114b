"""Two bits a sample, and from them the ids of every pool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from owl_stream.shards.cost import TOWER_POOLS, Pool, calls
from owl_stream.shards.flags import Flags, FlagWriter, flag_bytes


def written(path: Path, flags: NDArray[np.bool_], rng: np.random.Generator) -> bytes:
    """Flags as a file has them, written in pieces of any length."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        writer = FlagWriter(file, 8)
        for piece in np.split(flags, np.sort(rng.integers(0, len(flags) + 1, 7))):
            writer.write(piece)
        writer.finish()
        raw = os.pread(file, 1 << 20, 8)
    finally:
        os.close(file)
    assert len(raw) == flag_bytes(len(flags))
    return raw


@pytest.mark.parametrize("videos", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("images", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("samples", [0, 1, 63, 64, 65, 200_000])
def test_ids_are_found_whatever_the_pieces_were(tmp_path: Path, samples: int, images: float, videos: float) -> None:
    """Written in pieces of any length, each pool's ids in any order are what a list of them would say."""
    rng = np.random.default_rng(samples)
    has_image, has_video = (rng.random(samples) < share for share in (images, videos))
    listed: dict[Pool, NDArray[Any]] = {}
    for pool in TOWER_POOLS:
        image, video = calls(pool)
        ids = np.flatnonzero((has_image == image) & (has_video == video))
        if len(ids):
            listed[pool] = ids
    flags = Flags(written(tmp_path / "i", has_image, rng), written(tmp_path / "v", has_video, rng), list(listed))
    for pool, ids in listed.items():
        positions = rng.permutation(len(ids))
        assert (flags.ids(pool, positions) == ids[positions]).all()
    assert sum(map(len, listed.values())) == samples
