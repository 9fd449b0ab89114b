"""Every error owl-stream raises. A branch answers two questions: whose fault is it, and may I try again?

    OwlStreamError
    ├── UsageError               yours: fix the call, the flag or the file (exit code 2, HTTP 4xx)
    │   ├── ConfigError              a key, value or file of the configuration
    │   ├── RequestError             a rank, world size, micro-batch size or cursor that cannot be
    │   ├── AccessError              a token is missing or not one of the server's
    │   ├── UnknownDatasetError      a name that no server knows
    │   └── StateMismatchError       a state or fingerprint of other data: the differences are named
    ├── DataError                the data's
    │   ├── SampleError              one sample is bad: quarantined at indexing, masked at assembly
    │   ├── ShardError               a shard is damaged from some offset on
    │   ├── DataChangedError         bytes no longer match the scan table: index again
    │   └── ContractError            a batch would break its layout's contract; never sent
    │       └── MediaOffsetError         row, position, expected, got
    ├── PeerError                the other side broke the protocol
    │   ├── FrameError               bytes that are not a valid frame
    │   ├── ProtocolVersionError     the peer speaks another version
    │   └── ServerError              the server answered with an error that will not pass
    └── TemporaryError           nobody's: try again
        ├── PeerGoneError            the connection broke, went silent, or closed without `end`
        ├── ServerBusyError          the server asks to come back later
        │   ├── TooManyStreamsError      all places for streams are taken
        │   └── DrainingError            it is about to stop
        ├── ReadError                storage answered with an I/O error or not at all
        └── WorkerError              an assembly worker died for a reason that is not the sample

A message carries place, expected, got and remedy, in that order. It quotes keys, names and what other machines say, so
`str(error)` is inert: it does nothing to a terminal or a log, whoever prints it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from owl_stream.inert import indented, inert


class OwlStreamError(Exception):
    """Root of all errors of this project. Each argument is a line of the message, whatever line breaks it holds.

    `code` is the stable, machine-readable name that error frames and HTTP bodies carry; `retryable` says whether the
    same request may succeed later without anyone changing anything.
    """

    code = "internal"
    retryable = False

    def __str__(self) -> str:
        return "\n".join(self._shown(line) for line in self._lines())

    def _shown(self, line: str) -> str:
        """A line, inert. torch makes a worker's error anew from the text of its traceback, which keeps its lines."""
        first, _, rest = line.partition("\n")
        if not rest or not first.startswith(f"Caught {type(self).__name__} in DataLoader worker"):
            return inert(line)
        return f"{inert(first)}\n{indented(rest.rstrip())}"

    def raw(self) -> str:
        """The message with the characters of the data as they are: for what must keep its bytes, never for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Sequence[str]:
        return [str(argument) for argument in self.args]


class UsageError(OwlStreamError):
    """The caller asked for something that cannot be; trying again changes nothing."""

    code = "usage"


class ConfigError(UsageError):
    """A configuration file, environment variable or flag is wrong."""

    code = "config"


class RequestError(UsageError):
    """A rank, world size, micro-batch size or cursor that the dataset does not have."""

    code = "bad_request"


class AccessError(UsageError):
    """The server asks for a token, and none of its own was given. The message holds nothing of what was."""

    code = "unauthorized"


class UnknownDatasetError(UsageError):
    """No dataset of that name; the message lists the known ones."""

    code = "unknown_dataset"


class StateMismatchError(UsageError):
    """A saved state or an asked-for fingerprint belongs to other data, another recipe, seed or plan.

    `differences` maps the component's name to (expected, got).
    """

    code = "fingerprint_mismatch"

    def __init__(self, message: str, differences: Mapping[str, tuple[str, str]] | None = None) -> None:
        super().__init__(message)
        self.differences = dict(differences or {})


class DataError(OwlStreamError):
    """The data is at fault."""

    code = "data"


class SampleError(DataError):
    """One sample is bad. `reason` is a stable word for counting (`jpeg_truncated`), the text is for people.

    `shard`, `key`, `member` and `offset` (bytes from the start of the shard to the member's data, -1 when unknown)
    name the place. Whoever knows more than the raiser fills it in with `at`.
    """

    code = "sample"

    def __init__(
        self, reason: str, detail: str, *, shard: str = "", key: str = "", member: str = "", offset: int = -1
    ) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
        self.shard, self.key, self.member, self.offset = shard, key, member, offset

    def at(self, *, shard: str = "", key: str = "", member: str = "", offset: int = -1) -> SampleError:
        """Fill in the parts of the place that are still unknown; returns self."""
        self.shard, self.key, self.member = self.shard or shard, self.key or key, self.member or member
        self.offset = self.offset if self.offset >= 0 else offset
        return self

    def _lines(self) -> Sequence[str]:
        place = ", ".join(
            part
            for part in (
                f"shard {self.shard}" if self.shard else "",
                f"sample {self.key}" if self.key else "",
                f"member {self.member}" if self.member else "",
            )
            if part
        )
        place += f" @ {self.offset}" if self.offset >= 0 else ""
        return [f"{place}: {self.detail}" if place else self.detail]

    def __reduce__(self) -> tuple[object, ...]:
        state = {"shard": self.shard, "key": self.key, "member": self.member, "offset": self.offset}
        return type(self), (self.reason, self.detail), state


class ShardError(DataError):
    """A shard is missing, unreadable, or damaged from `offset` on. `reason` is a stable word for counting."""

    code = "shard"

    def __init__(self, shard: str, offset: int, reason: str, detail: str) -> None:
        super().__init__(shard, offset, reason, detail)
        self.shard, self.offset, self.reason, self.detail = shard, offset, reason, detail

    def _lines(self) -> Sequence[str]:
        return [f"shard {self.shard} @ {self.offset}: {self.detail}"]


class DataChangedError(DataError):
    """A sample's bytes no longer match the scan table: the shard was rewritten after indexing."""

    code = "data_changed"


class ContractError(DataError):
    """A batch would break its layout's contract. Raised before anything is sent."""

    code = "contract"


class MediaOffsetError(ContractError):
    """`media_offset` breaks the contract at `row`, `position` (-1: the whole): `expected` and `got` say how."""

    def __init__(self, row: int, position: int, expected: str, got: str) -> None:
        super().__init__(row, position, expected, got)
        self.row, self.position, self.expected, self.got = row, position, expected, got

    def _lines(self) -> Sequence[str]:
        row = f", row {self.row}" if self.row >= 0 else ""
        position = f", position {self.position}" if self.position >= 0 else ""
        return [f"media_offset{row}{position}: expected {self.expected}, got {self.got}"]


class PeerError(OwlStreamError):
    """The other side broke the protocol, or refused for good."""

    code = "peer"


class FrameError(PeerError):
    """Bytes that are not a valid frame: damaged, truncated, hostile, or of another stream."""

    code = "bad_frame"


class ProtocolVersionError(PeerError):
    """The peer speaks a protocol version that this one does not."""

    code = "protocol_version"


class ServerError(PeerError):
    """The server answered with an error that will not pass by waiting. `server_code` is the server's own code."""

    code = "server"

    def __init__(self, message: str, server_code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.server_code, self.status = server_code, status


class TemporaryError(OwlStreamError):
    """Nobody's fault: the same request may succeed later."""

    code = "temporary"
    retryable = True


class PeerGoneError(TemporaryError):
    """The connection broke, went silent past its deadline, or closed without an `end` frame."""

    code = "peer_gone"


class ServerBusyError(TemporaryError):
    """The server is draining, full or still indexing. `retry_after_s` is its own advice (0 when it gave none)."""

    code = "busy"

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyStreamsError(ServerBusyError):
    """All places for streams are taken."""

    code = "too_many_streams"


class DrainingError(ServerBusyError):
    """The server is about to stop; its streams end at a frame's edge."""

    code = "draining"


class ReadError(TemporaryError):
    """Storage answered with an I/O error or stalled. Never a reason to mask a sample."""

    code = "read"


class WorkerError(TemporaryError):
    """An assembly worker died or hung for a reason that is not a function of the sample's bytes."""

    code = "worker"
