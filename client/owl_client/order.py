"""The order that frames must come in: a reader of one share knows each next frame before it arrives."""

from __future__ import annotations

from owl_client.transport import Description, Share
from owl_stream.errors import FrameError, ProtocolVersionError, StateMismatchError
from owl_stream.wire import PROTOCOL_VERSION, BatchHeader, Cursor, End, Hello


def name_differences(
    expected: tuple[str, dict[str, str]], got: tuple[str, dict[str, str]]
) -> dict[str, tuple[str, str]]:
    """Which components of two (fingerprint, components) differ, as name -> (expected, got)."""
    names = list(dict.fromkeys((*expected[1], *got[1])))
    found = {name: (expected[1].get(name, "none"), got[1].get(name, "none")) for name in names}
    differences = {name: pair for name, pair in found.items() if pair[0] != pair[1]}
    return differences or {"fingerprint": (expected[0], got[0])}


def other_data(place: str, expected: tuple[str, dict[str, str]], got: tuple[str, dict[str, str]]) -> StateMismatchError:
    """The error that says which components of two (fingerprint, components) differ; `place` has the others."""
    differences = name_differences(expected, got)
    return StateMismatchError(f"{place} has other data: {describe_differences(differences)}", differences)


MOST_NAMED = 8
"""Components that an error tells of; `differences` holds all of them."""


def describe_differences(differences: dict[str, tuple[str, str]]) -> str:
    """One clause per component: `seed: expected 0, got 1`. A server may say any number of them, of any length."""
    told = list(differences.items())[:MOST_NAMED]
    clauses = [f"{name:.100}: expected {expected:.100}, got {got:.100}" for name, (expected, got) in told]
    more = len(differences) - len(told)
    return "; ".join([*clauses, *([f"and {more} more"] if more else [])])


class Order:
    """The micro-batches of one share from `start` to the end of its epoch, every `stride`-th of them.

    `next` is the one not yet delivered. Nothing that is checked here is ever repaired: a frame that is not the expected
    one is an error of its connection.
    """

    def __init__(self, dataset: Description, share: Share, start: Cursor, stride: int = 1) -> None:
        self.dataset, self.share, self.stride = dataset, share, stride
        self.micros = dataset.global_batch_size // (share.world_size * share.micro_batch_size)
        self.next, self._epoch = start, start.epoch
        self._last: Cursor | None = None

    @property
    def complete(self) -> bool:
        """Whether every micro-batch has been delivered."""
        return self.next.epoch > self._epoch

    def resume_point(self) -> Cursor:
        """Where a new connection begins.

        When all is delivered and only `end` is missing, that is the last micro-batch again: a stream that closed
        without `end` is never taken for the end of an epoch.
        """
        return self._last if self.complete and self._last is not None else self.next

    def after(self, cursor: Cursor) -> Cursor:
        """The cursor that follows in this order."""
        return cursor.after(self.dataset.steps_per_epoch, self.micros, self.stride)

    def delivered(self, cursor: Cursor) -> None:
        """Note that the micro-batch at `cursor`, which was `next`, has been taken."""
        self._last, self.next = cursor, self.after(cursor)

    def check_hello(self, hello: Hello, asked: Cursor) -> None:
        """Check that the speaker has our data and means our stream.

        Raises:
            ProtocolVersionError: it speaks another version.
            StateMismatchError: another fingerprint or assembly id, the differences named.
            FrameError: it answers another request.
        """
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolVersionError(
                f"expected protocol version {PROTOCOL_VERSION}, got {hello.protocol} from {hello.server}; "
                f"install the same owl-stream on both sides"
            )
        mine, theirs = self.dataset, hello
        if mine.fingerprint != theirs.fingerprint:
            raise other_data(
                "the server", (mine.fingerprint, dict(mine.components)), (theirs.fingerprint, dict(theirs.components))
            )
        if mine.assembly != theirs.assembly:
            raise StateMismatchError(
                f"the server assembles otherwise: expected assembly {mine.assembly}, got {theirs.assembly}; "
                f"install the same decoder and resizer versions on all servers",
                {"assembly": (mine.assembly, theirs.assembly)},
            )
        if mine.layout != theirs.layout:
            raise FrameError(f"hello of another stream: expected layout {mine.layout!r:.80}, got {theirs.layout!r:.80}")
        share = self.share
        expected = (asked, share.rank, share.world_size, share.micro_batch_size, self.micros, mine.steps_per_epoch)
        got = (
            hello.cursor,
            hello.rank,
            hello.world_size,
            hello.micro_batch_size,
            hello.micros_per_step,
            hello.steps_per_epoch,
        )
        if expected != got:
            raise FrameError(f"hello of another stream: expected {_words(expected)}, got {_words(got)}")

    def check_batch(self, header: BatchHeader, expected: Cursor) -> None:
        """Check that a batch is the expected one of our share.

        Raises:
            FrameError: reordered, duplicated, left out, of another stream, or with more labels than its step.
        """
        share = self.share
        if header.fingerprint != self.dataset.fingerprint:
            raise FrameError(
                f"batch of other data: expected fingerprint {self.dataset.fingerprint}, got {header.fingerprint}"
            )
        if header.cursor != expected:
            raise FrameError(f"batch out of order: expected {_place(expected)}, got {_place(header.cursor)}")
        if (header.rank, header.world_size, len(header.rows)) != (
            share.rank,
            share.world_size,
            share.micro_batch_size,
        ):
            raise FrameError(
                f"batch of another share: expected rank {share.rank} of {share.world_size} with "
                f"{share.micro_batch_size} rows, got rank {header.rank} of {header.world_size} with {len(header.rows)}"
            )
        if header.supervised_tokens > header.step_supervised_tokens:  # a loss is weighted by their ratio
            raise FrameError(
                f"batch at {_place(expected)}: expected at most the step's {header.step_supervised_tokens} supervised "
                f"tokens, got {header.supervised_tokens}"
            )

    def check_end(self, end: End, expected: Cursor) -> None:
        """Check that a stream ends where the epoch does.

        Raises:
            FrameError: micro-batches are missing.
        """
        if end.cursor != expected or expected.epoch <= self._epoch or not end.final:
            raise FrameError(
                f"end of stream: expected the end of epoch {self._epoch} after {_place(expected)}, "
                f"got {_place(end.cursor)}, final {end.final}"
            )


def _place(cursor: Cursor) -> str:
    return f"epoch {cursor.epoch}, step {cursor.step}, micro {cursor.micro}"


def _words(values: tuple[Cursor, int, int, int, int, int]) -> str:
    cursor, rank, world_size, rows, micros, steps = values
    return f"{_place(cursor)}, rank {rank} of {world_size}, {rows} rows, {micros} micros a step, {steps} steps"
