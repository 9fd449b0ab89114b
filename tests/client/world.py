"""A tiny dataset whose every frame can be written down from arithmetic: what a server would send, without a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from owl_client import Batch, BatchMeta
from owl_client.transport import Description, Share, StreamRequest
from owl_stream.wire import (
    BatchHeader,
    Cursor,
    End,
    Header,
    Heartbeat,
    Hello,
    Normalise,
    RowInfo,
    SchemaEntry,
    Stats,
    TensorSpec,
    Totals,
    lay_out,
    pack_frame,
)

LENGTH, SIDE = 3, 2
TOKENS_PER_UNIT = 5

_PLAIN = (False, None, None)
"""Of a schema's entry: always there, not pixels, not cut."""

PIXELS = Normalise(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), axis=1, repeat=1, flatten=False)
CLIP = Normalise(
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    axis=1,
    repeat=1,
    flatten=True,
)


@dataclass(frozen=True)
class World:
    """`steps` global steps of `rows` rows: row p of a step has the id step * rows + p. Even steps have a crop a row.

    With `videos`, every third step has a video a row, for a second tower: two frames that count as one unit.
    """

    steps: int = 3
    rows: int = 4
    layout: str = "owl3-240728"
    seed: int = 0
    assembly: str = "pillow-11"
    protocol: int = 1
    side: int = SIDE
    videos: bool = False

    @property
    def fingerprint(self) -> str:
        """Differs when the order does."""
        return hashlib.sha256(f"{self.steps} {self.rows} {self.layout} {self.seed}".encode()).hexdigest()[:16]

    @property
    def components(self) -> dict[str, str]:
        """What a mismatch names."""
        return {"manifest": f"{self.steps}x{self.rows}", "seed": str(self.seed)}

    def description(self) -> Description:
        """What `GET /v1/datasets/{name}` says."""
        return Description(
            "train", self.layout, self.fingerprint, self.components, self.assembly, self.rows, self.steps
        )

    def description_json(self) -> dict[str, Any]:
        """The same as JSON, with what a real server adds."""
        return {
            "name": "train",
            "layout": self.layout,
            "fingerprint": self.fingerprint,
            "components": self.components,
            "assembly": self.assembly,
            "global_batch_size": self.rows,
            "steps_per_epoch": self.steps,
            "samples": self.steps * self.rows,
            "quarantined": 0,
        }

    def micros(self, share: Share) -> int:
        """Micro-batches per step of a share."""
        return self.rows // (share.world_size * share.micro_batch_size)

    def sequence(self, request: StreamRequest) -> list[Cursor]:
        """The cursors that a stream visits."""
        cursor, seen, micros = request.cursor, [], self.micros(request.share)
        while cursor.epoch == request.cursor.epoch and self.steps:
            seen.append(cursor)
            cursor = cursor.after(self.steps, micros, request.stride)
        return seen

    def hello(self, request: StreamRequest) -> Hello:
        """The first header of a stream."""
        return Hello(
            self.protocol,
            "test/0",
            "train",
            self.layout,
            self.fingerprint,
            self.components,
            self.assembly,
            request.cursor,
            request.share.rank,
            request.share.world_size,
            request.share.micro_batch_size,
            self.micros(request.share),
            self.steps,
            self.schema(),
        )

    def schema(self) -> tuple[SchemaEntry, ...]:
        """What `hello` says of the tensors: those of step 0, which has them all."""
        ragged, side = self.layout == "owl3-241101", self.side
        of: dict[str, tuple[tuple[str | int, ...], bool, Normalise | None, str | None]] = {
            "media_offset": (("N",), False, None, "media_offset_lengths") if ragged else (("B", "L", 2), *_PLAIN),
            "media_offset_lengths": (("B",), *_PLAIN),
            "pixel_values": (("C", 3, side, side), True, PIXELS, None),
            "pixel_values_videos": (("V", 3, 2, side, side), True, CLIP, None),
        }
        arrays = self.arrays(Cursor(0, 0, 0), Share(0, 1, 1))
        return tuple(
            SchemaEntry(name, str(each.dtype), *of.get(name, (("B", "L"), *_PLAIN))) for name, each in arrays.items()
        )

    def end(self, request: StreamRequest) -> End:
        """The last header of a stream."""
        totals = Totals(self.steps, self.steps * self.rows, 0, 0, 0)
        return End(Cursor(request.cursor.epoch + 1, 0, 0), True, totals)

    def frames(self, request: StreamRequest) -> list[bytes]:
        """A whole stream, frame by frame, heartbeat and statistics included."""
        return list(_frames(self, request))

    def batch_frame(self, cursor: Cursor, share: Share) -> bytes:
        """One micro-batch as bytes: the same from everyone."""
        return _batch_frame(self, cursor, share)

    def row_ids(self, cursor: Cursor, share: Share) -> list[int]:
        """The rows of one micro-batch."""
        first = (share.rank * self.micros(share) + cursor.micro) * share.micro_batch_size
        return [cursor.step * self.rows + first + i for i in range(share.micro_batch_size)]

    def arrays(self, cursor: Cursor, share: Share) -> dict[str, NDArray[Any]]:
        """The tensors of one micro-batch; every number depends on epoch and row."""
        ids = np.array(self.row_ids(cursor, share), np.int64) + 1000 * cursor.epoch
        text = np.repeat(ids[:, None], LENGTH, axis=1)
        arrays: dict[str, NDArray[Any]] = {"input_ids": text, "attention_mask": text * 0 + 1, "labels": -text}
        if self.layout == "owl3-241101":
            lengths = ids % 3
            arrays |= {"media_offset": np.arange(lengths.sum()), "media_offset_lengths": lengths}
        else:
            arrays["media_offset"] = np.stack([text, text + 1], axis=-1)
        if cursor.step % 2 == 0:
            count = len(ids) * 3 * self.side**2
            arrays["pixel_values"] = (np.arange(count) + ids[0]).astype(np.uint8).reshape(-1, 3, self.side, self.side)
        if self.videos and cursor.step % 3 == 0:
            shape = (len(ids), 3, 2, self.side, self.side)
            arrays["pixel_values_videos"] = (np.arange(np.prod(shape)) * 7 + ids[0]).astype(np.uint8).reshape(shape)
        return arrays

    def lengths(self, arrays: dict[str, NDArray[Any]]) -> dict[str, int]:
        """What the letters of `schema` stand for in a batch of those tensors."""
        letters = {"B": len(arrays["input_ids"]), "L": LENGTH}
        for letter, name in (("C", "pixel_values"), ("V", "pixel_values_videos"), ("N", "media_offset")):
            letters[letter] = len(arrays.get(name, ()))
        return letters


@lru_cache(maxsize=1024)
def _frames(world: World, request: StreamRequest) -> tuple[bytes, ...]:
    quiet: list[Header] = [Heartbeat(), Stats({"decode_s": 0.5})]
    return (
        pack_frame(world.hello(request)),
        *(pack_frame(header) for header in quiet),
        *(world.batch_frame(cursor, request.share) for cursor in world.sequence(request)),
        pack_frame(world.end(request)),
    )


@lru_cache(maxsize=4096)
def _batch_frame(world: World, cursor: Cursor, share: Share) -> bytes:
    arrays = world.arrays(cursor, share)
    specs, nbytes = lay_out([(name, str(array.dtype), array.shape) for name, array in arrays.items()])
    payload = bytearray(nbytes)
    for spec in specs:
        payload[spec.offset : spec.offset + spec.nbytes] = arrays[spec.name].tobytes()
    return pack_frame(_batch_header(world, cursor, share, specs, world.lengths(arrays)), payload)


def _batch_header(
    world: World, cursor: Cursor, share: Share, specs: tuple[TensorSpec, ...], lengths: dict[str, int]
) -> BatchHeader:
    ids = world.row_ids(cursor, share)
    units = lengths["C"] + lengths["V"]
    return BatchHeader(
        world.fingerprint,
        *cursor,
        share.rank,
        share.world_size,
        specs,
        tuple(RowInfo("train-0.tar", f"{i:06}", "masked" if i % 7 == 6 else "ok", "", None) for i in ids),
        LENGTH * len(ids),
        len(ids),
        world.rows,
        units * TOKENS_PER_UNIT,
        units,
        lengths,
    )


def key_of(batch: Batch) -> tuple[int, int, int, str]:
    """Which batch this is and a hash over all that it holds."""
    digest = hashlib.sha256()
    for name in sorted(batch):
        value = batch[name]
        for tensor in value if isinstance(value, list) else [value]:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    meta: BatchMeta = batch.meta
    return meta.epoch, meta.step, meta.micro, digest.hexdigest()


def keys_of(batches: Iterable[Batch]) -> list[tuple[int, int, int, str]]:
    """`key_of` each: two runs are the same when these lists are."""
    return [key_of(batch) for batch in batches]


def row_keys(batch: Batch) -> list[str]:
    """The samples a batch holds."""
    return [row.key for row in batch.meta.rows]
