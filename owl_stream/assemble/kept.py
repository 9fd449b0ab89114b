"""Encoded samples as bytes: what indexing has worked out of a sample's text and headers, for assembly to read back.

Raise `MEASURE_VERSION` when the form changes: rows of the old one then belong to no recipe that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from owl_stream.assemble.encode import EncodedSample, Picture
from owl_stream.assemble.files import OpenFiles
from owl_stream.assemble.header import Header
from owl_stream.layouts import EncodedRow, Visual
from owl_stream.shards import Member, RowTable, RowTables, Shard

_TOKEN = "<u4"


def pack(encoded: EncodedSample, offset: int) -> bytes:
    """An encoded sample that begins at `offset` of its shard, without the bytes of its pictures.

    Depends on nothing but the sample's bytes and the recipe: places are counted from the sample's beginning.
    """
    row = encoded.row
    packed: bytes = msgpack.packb(
        (
            encoded.key,
            row.input_ids.astype(_TOKEN).tobytes(),
            row.supervised,
            row.unit_starts.tolist(),
            (row.image_units, row.image_tokens, row.video_units, row.video_tokens, row.truncated),
            [
                (*visual, member.name, member.ext, member.offset - offset, member.data.nbytes, *header)
                for visual, (member, header) in encoded.pictures
            ],
        )
    )
    return packed


def unpack(packed: bytes, span: bytes, offset: int) -> EncodedSample:
    """What `pack` was given, of the sample whose bytes, from `offset` of its shard, are `span`."""
    key, ids, supervised, unit_starts, counts, packed_pictures = msgpack.unpackb(packed, use_list=False)
    input_ids = np.frombuffer(ids, _TOKEN).astype(np.int64)
    pictures = _pictures(packed_pictures, memoryview(span), offset)
    visuals = tuple([visual for visual, _ in pictures])
    starts = np.array(unit_starts, dtype=np.int64)
    return EncodedSample(key, EncodedRow(input_ids, supervised, starts, visuals, *counts), pictures)


def _pictures(packed: Sequence[Any], span: memoryview, offset: int) -> tuple[tuple[Visual, Picture], ...]:
    pictures = []
    fields = len(Visual._fields)
    for each in packed:
        name, ext, at, nbytes, *header = each[fields:]
        member = Member(name, ext, offset + at, span[at : at + nbytes])
        pictures.append((Visual(*each[:fields]), Picture(member, Header(*header))))
    return tuple(pictures)


class KeptRows:
    """Reads encoded samples from the row tables of shards."""

    def __init__(self, shards: Sequence[Shard], tables: RowTables) -> None:
        self._files: OpenFiles[RowTable | None] = OpenFiles(lambda shard: tables.open(shards[shard]), _close)

    def read(self, shard: int, number: int, digest: int, span: bytes, offset: int) -> EncodedSample | None:
        """The encoded sample of these bytes, the shard's good one of that number; None where it is not to be had."""
        table = self._files.get(shard)
        packed = table.read(number, digest) if table is not None else None
        return unpack(packed, span, offset) if packed is not None else None

    def close(self) -> None:
        """Close the tables; reading opens them again."""
        self._files.close()


def _close(table: RowTable | None) -> None:
    if table is not None:
        table.close()
