"""Where the machine plays: in memory, where a thousand runs take seconds, and on real processes behind proxies."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from owl_client import Backoff, Timeouts
from owl_client.transport import Interrupt, StreamRequest
from owl_stream.errors import PeerGoneError
from owl_stream.wire import BatchHeader, Cursor, ErrorInfo, pack_frame, parse_frames, tensor_views
from tests.client.peers import MemoryStream, MemoryTransport
from tests.client.world import World
from tests.faults.harms import END_OF_HEAD, BlackHole, Cut, Harm, ResetError, chunk, random_harm
from tests.faults.machine import Place
from tests.faults.proxy import FaultProxy
from tests.faults.warm import WarmServer
from tests.support.http import get
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess

URLS = ("http://a", "http://b")


class FragileStream(MemoryStream):
    """A body in memory whose server can die under it."""

    broken = False

    def readinto(self, buffer: memoryview) -> int:
        """See `ByteStream`."""
        if self.broken:
            raise PeerGoneError("killed")
        return super().readinto(buffer)


class FragileTransport(MemoryTransport):
    """Two servers in memory that can be killed, with what befalls the next streams of either."""

    def __init__(self, world: World) -> None:
        super().__init__(dict.fromkeys(URLS, world), piece=2048)
        self.alive: list[tuple[str, FragileStream]] = []
        self.kinds: Counter[str] = Counter()

    def open(self, url: str, request: StreamRequest, interrupt: Interrupt) -> MemoryStream:
        """See `Transport`."""
        body = super().open(url, request, interrupt)
        stream = FragileStream(bytes(body._rest), self)
        self.alive.append((url, stream))
        return stream

    def kill(self, url: str | None = None) -> None:
        """Break every stream, of one server or of all."""
        for at, stream in self.alive:
            stream.broken = stream.broken or url in (None, at)
        self.alive = []


class MemoryStage:
    """Everything but processes and sockets: a `World` of six steps."""

    world = World(steps=6)
    steps_per_epoch = world.steps
    urls = URLS

    def __init__(self) -> None:
        self.transport = FragileTransport(self.world)

    def keys(self, epoch: int, step: int) -> Sequence[str]:
        """See `Stage`."""
        return [f"{step * self.world.rows + row:06}" for row in range(self.world.rows)]

    def arrays(self, place: Place) -> Mapping[str, NDArray[Any]]:
        """See `Stage`."""
        return self.world.arrays(*place)

    def options(self) -> dict[str, Any]:
        """See `Stage`."""
        return {"transport": self.transport, "backoff": Backoff(0.0, 0.0), "prefetch": 3}

    def kill_server(self, number: int) -> None:
        """See `Stage`; until it is back, one connection is refused."""
        self.transport.kill(self.urls[number])
        self.transport.faults.append(PeerGoneError("connection refused"))

    def kill_worker(self, number: int) -> None:
        """See `Stage`; the server gave up on the frame that the worker was at."""
        died = pack_frame(ErrorInfo("worker", "four workers died", True))
        self.transport.faults.append(lambda frames: [*frames[: number + 4], died])

    def cut(self, chance: random.Random) -> None:
        """See `Stage`."""
        self.transport.kill()
        at = chance.randrange(6000)
        self.transport.faults.append(lambda frames: [b"".join(frames)[:at]])

    def corrupt(self, chance: random.Random) -> None:
        """See `Stage`."""
        harm = random_harm(chance, 6000)
        if not isinstance(harm, BlackHole):  # memory has no deadline that would end it
            self.transport.kinds[type(harm).__name__] += 1
            self.transport.faults.append(lambda frames: asyncio.run(_harmed(harm, frames)))

    def heal(self) -> None:
        """See `Stage`."""
        self.transport.faults.clear()


async def _harmed(harm: Harm, frames: list[bytes]) -> list[bytes]:
    """What is left of a stream's bytes, HTTP taken off again."""

    async def answer() -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK" + END_OF_HEAD
        for frame in frames:
            yield chunk(frame)
        yield chunk(b"")

    arrived = bytearray()
    try:
        async for piece in harm(answer(), lambda: None):
            arrived += piece
    except ResetError:
        pass
    return [_unchunked(bytes(arrived).partition(END_OF_HEAD)[2])]


def _unchunked(body: bytes) -> bytes:
    data, rest = bytearray(), body
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        try:
            nbytes = int(line, 16)
        except ValueError:
            break
        data += rest[: max(nbytes, 0)]
        rest = rest[max(nbytes, 0) + 2 :]
        if nbytes <= 0:
            break
    return bytes(data)


class ProcessStage:
    """Two real servers behind two proxies, and a third, unharmed, that says what is true. Shared by all runs."""

    def __init__(self, config: Path, steady: ServerProcess) -> None:
        self._steady, self._stack = steady, ExitStack()
        self._servers = [self._stack.enter_context(WarmServer(config)) for _ in range(2)]
        self._proxies = [self._stack.enter_context(FaultProxy(server.url)) for server in self._servers]
        self.urls = [proxy.url for proxy in self._proxies]
        self.steps_per_epoch = int(get(f"{steady.url}/v1/datasets/train").json["steps_per_epoch"])
        self.kills: Counter[str] = Counter()

    def close(self) -> None:
        """End all of it."""
        self._stack.close()

    @property
    def struck(self) -> Counter[str]:
        """Harms that took effect, by kind."""
        return sum((proxy.struck for proxy in self._proxies), Counter())

    @cache  # noqa: B019 # one stage lives as long as its tests
    def keys(self, epoch: int, step: int) -> Sequence[str]:
        """See `Stage`."""
        answer = get(f"{self._steady.url}/v1/datasets/train/plan?epoch={epoch}&step={step}")
        return [row["key"] for row in answer.json["steps"][0]["rows"]]

    @cache  # noqa: B019 # one stage lives as long as its tests
    def arrays(self, place: Place) -> Mapping[str, NDArray[Any]]:
        """See `Stage`."""
        (epoch, step, micro), share = place
        query = f"rank={share.rank}&world_size={share.world_size}&micro_batch_size={share.micro_batch_size}"
        frame = get(f"{self._steady.url}/v1/datasets/train/batches/{epoch}/{step}/{micro}?{query}").body
        (parsed,) = parse_frames(frame)
        assert isinstance(parsed.header, BatchHeader)
        assert parsed.header.cursor == Cursor(epoch, step, micro)
        return tensor_views(parsed.payload, parsed.header.tensors)

    def options(self) -> dict[str, Any]:
        """See `Stage`."""
        return {"timeouts": Timeouts(read_s=1.0), "backoff": Backoff(0.01, 0.1), "give_up_after_s": PATIENCE_S}

    def kill_server(self, number: int) -> None:
        """See `Stage`."""
        self._servers[number].kill()
        self._servers[number].start()
        self.kills["server"] += 1

    def kill_worker(self, number: int) -> None:
        """See `Stage`."""
        for pid in self._servers[number].workers[:1]:
            os.kill(pid, signal.SIGKILL)
            self.kills["worker"] += 1

    def cut(self, chance: random.Random) -> None:
        """See `Stage`."""
        for proxy in self._proxies:
            proxy.befall(Cut(chance.randrange(20_000)))
            proxy.drop()

    def corrupt(self, chance: random.Random) -> None:
        """See `Stage`."""
        for proxy in self._proxies:
            proxy.befall(random_harm(chance, 20_000))
            proxy.drop()

    def heal(self) -> None:
        """See `Stage`."""
        for proxy in self._proxies:
            proxy.waiting.clear()
