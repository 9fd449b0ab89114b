"""What can befall the bytes of one HTTP answer: each harm turns the pieces that a server sent into those that arrive.

A harm is called with the pieces of a whole answer (head, then chunked body) and a callable to say that it has struck.
Positions count from the answer's first byte, those of bits and frames from the body's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

Pieces = AsyncIterator[bytes]
Struck = Callable[[], None]

PREFIX_BYTES, PAYLOAD_PREFIX_BYTES, DIGEST_BYTES = 6, 5, 9
END_OF_HEAD = b"\r\n\r\n"


class Harm(Protocol):
    """Something that happens to an answer."""

    def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """The pieces that arrive."""
        ...


class ResetError(Exception):
    """The connection is to end with RST."""


async def _first(pieces: Pieces, nbytes: int) -> Pieces:
    """The first `nbytes` bytes; ends early when there are fewer."""
    async for piece in pieces:
        if piece[:nbytes]:
            yield piece[:nbytes]
        nbytes -= len(piece)
        if nbytes <= 0:
            return


@dataclass(frozen=True)
class Cut:
    """FIN after `at` bytes."""

    at: int

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        async for piece in _first(pieces, self.at):
            yield piece
        struck()


@dataclass(frozen=True)
class Reset:
    """RST after `at` bytes."""

    at: int

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        async for piece in _first(pieces, self.at):
            yield piece
        struck()
        raise ResetError


@dataclass(frozen=True)
class BlackHole:
    """Half-open: after `at` bytes nothing arrives any more, and nobody says so."""

    at: int

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        async for piece in _first(pieces, self.at):
            yield piece
        struck()
        await asyncio.Event().wait()


@dataclass(frozen=True)
class Slices:
    """Delivery in slices of `nbytes` bytes."""

    nbytes: int = 1

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        struck()
        async for piece in pieces:
            for start in range(0, len(piece), self.nbytes):
                yield piece[start : start + self.nbytes]


@dataclass(frozen=True)
class Delay:
    """Latency, jitter and loss.

    To whoever sits above TCP a lost packet is a pause, as long as a retransmission takes, and then a burst: so one
    piece in `lose_one_in` waits `retransmission_s`.
    """

    latency_s: float = 0.001
    jitter_s: float = 0.002
    lose_one_in: int = 20
    retransmission_s: float = 0.05
    seed: int = 0

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        struck()
        chance = random.Random(self.seed)
        async for piece in pieces:
            lost = chance.randrange(self.lose_one_in) == 0
            await asyncio.sleep(
                self.latency_s + chance.random() * self.jitter_s + (self.retransmission_s if lost else 0)
            )
            yield piece


@dataclass(frozen=True)
class Bandwidth:
    """A thin line: `bytes_per_s`, a kilobyte at a time."""

    bytes_per_s: float

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        struck()
        async for piece in Slices(1024)(pieces, lambda: None):
            await asyncio.sleep(len(piece) / self.bytes_per_s)
            yield piece


@dataclass(frozen=True)
class Buffering:
    """A proxy that gathers `nbytes` before it passes anything on: heartbeats are late, frames come in bursts."""

    nbytes: int

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        gathered = bytearray()
        struck()
        async for piece in pieces:
            gathered += piece
            if len(gathered) >= self.nbytes:
                yield bytes(gathered)
                gathered.clear()
        if gathered:
            yield bytes(gathered)


@dataclass(frozen=True)
class Flip:
    """One bit of the body, counted from its first, is the other one."""

    bit: int

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        left, in_body = self.bit // 8, False
        async for piece in head_apart(pieces):
            if in_body and 0 <= left < len(piece):
                struck()
                changed = bytearray(piece)
                changed[left] ^= 1 << self.bit % 8
                yield bytes(changed)
            else:
                yield piece
            left -= len(piece) if in_body else 0
            in_body = True


Change = Callable[[list[bytes]], list[bytes]]


@dataclass(frozen=True)
class Frames:
    """The stream's first `count` frames are rearranged as a whole; the rest follows as it was."""

    count: int
    change: Change

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        whole = head_apart(pieces)
        yield await anext(whole)
        held: list[bytes] = []
        async for frame in split_frames(unchunk(whole)):
            held.append(frame)
            if len(held) == self.count:
                struck()
                for each in self.change(held):
                    yield chunk(each)
            elif len(held) > self.count:
                yield chunk(frame)
        if len(held) < self.count:
            for each in held:
                yield chunk(each)
        yield chunk(b"")


def duplicate(frame: int) -> Frames:
    """Frame number `frame` arrives twice."""
    return Frames(frame + 1, lambda frames: [*frames, frames[-1]])


def reorder(frame: int) -> Frames:
    """Frame number `frame` arrives behind its successor."""
    return Frames(frame + 2, lambda frames: [*frames[:-2], frames[-1], frames[-2]])


def leave_out(frame: int) -> Frames:
    """Frame number `frame` never arrives."""
    return Frames(frame + 1, lambda frames: frames[:-1])


def insert(frame: int, data: bytes) -> Frames:
    """`data` arrives before frame number `frame`."""
    return Frames(frame + 1, lambda frames: [*frames[:-1], data, frames[-1]])


@dataclass(frozen=True)
class EndCleanly:
    """The answer ends as it should, after `count` frames: no `end` frame among them."""

    count: int

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        whole, seen = head_apart(pieces), 0
        yield await anext(whole)
        async for frame in split_frames(unchunk(whole)):
            if seen == self.count:
                struck()
                break
            seen += 1
            yield chunk(frame)
        yield chunk(b"")


async def head_apart(pieces: Pieces) -> Pieces:
    """The same bytes; the head of the answer is the first piece, and nothing else is in it."""
    head = b""
    async for piece in pieces:
        head += piece
        if END_OF_HEAD in head:
            break
    cut = head.find(END_OF_HEAD) + len(END_OF_HEAD)
    yield head[:cut]
    if head[cut:]:
        yield head[cut:]
    async for piece in pieces:
        yield piece


async def unchunk(pieces: Pieces) -> Pieces:
    """The data of a chunked body; ends with its last chunk, or where the body breaks off."""
    data = bytearray()
    async for piece in pieces:
        data += piece
        while (line := data.find(b"\r\n")) >= 0:
            nbytes = int(data[:line], 16)
            if nbytes == 0:
                return
            if len(data) < line + 4 + nbytes:
                break
            yield bytes(data[line + 2 : line + 2 + nbytes])
            del data[: line + 4 + nbytes]


async def split_frames(pieces: Pieces) -> Pieces:
    """A stream's bytes, frame by frame."""
    data = bytearray()
    async for piece in pieces:
        data += piece
        while (nbytes := frame_bytes(data)) and len(data) >= nbytes:
            yield bytes(data[:nbytes])
            del data[:nbytes]


def frame_bytes(data: bytes | bytearray) -> int:
    """Length of the frame that `data` begins with; 0 while it cannot be known."""
    if len(data) < PREFIX_BYTES:
        return 0
    payload_at = PREFIX_BYTES + int.from_bytes(data[2:6])
    if len(data) < payload_at + PAYLOAD_PREFIX_BYTES:
        return 0
    payload = int.from_bytes(data[payload_at + 1 : payload_at + 5])
    return payload_at + PAYLOAD_PREFIX_BYTES + payload + DIGEST_BYTES


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; an empty one is the last."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def random_harm(chance: random.Random, nbytes: int) -> Harm:
    """One harm of any kind, within the first `nbytes` bytes of an answer; whatever it is, a reader must recover."""
    at, frame = chance.randrange(nbytes), chance.randrange(1, 6)
    kinds: list[Callable[[], Harm]] = [
        lambda: Cut(at),
        lambda: Reset(at),
        lambda: BlackHole(at),
        lambda: Slices(chance.randrange(200, 5000)),
        lambda: Delay(seed=at),
        lambda: Bandwidth(20e6),
        lambda: Buffering(chance.randrange(1 << 10, 1 << 20)),
        lambda: Flip(8 * at + chance.randrange(8)),
        lambda: duplicate(frame),
        lambda: reorder(frame),
        lambda: leave_out(frame),
        lambda: insert(frame, chance.randbytes(9)),
        lambda: EndCleanly(frame),
    ]
    return chance.choice(kinds)()
