"""What was found bad at indexing, in a form that can be kept, counted and shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

from owl_stream.errors import SampleError, ShardError

_SHOWN = 400


@dataclass(frozen=True)
class Quarantined:
    """One finding: a sample, or with an empty `key` damage of the shard itself.

    `offset` is in bytes from the start of the shard: to a damaged place, a member's data or a sample's first header.
    `reason` is a stable word for counting, `detail` is for people. Texts are printable UTF-8, at most 400 characters.
    """

    shard: str
    key: str
    member: str
    offset: int
    reason: str
    detail: str

    @classmethod
    def of(cls, error: SampleError, *, key: str, offset: int) -> Quarantined:
        """What a `SampleError` says; `key` and `offset` stand in where it does not know them."""
        where = error.offset if error.offset >= 0 else offset
        return cls("", key, error.member, where, error.reason, error.detail).printable()

    def in_shard(self, name: str) -> Quarantined:
        """Tables do not know what their shard is called."""
        return replace(self, shard=name)

    def printable(self) -> Quarantined:
        """Hostile names and details must not break a log, a page or a frame."""
        return replace(self, key=_shown(self.key), member=_shown(self.member), detail=_shown(self.detail))

    def error(self) -> SampleError | ShardError:
        """The finding as the error it would be if it were raised."""
        if not self.key:
            return ShardError(self.shard, self.offset, self.reason, self.detail)
        return SampleError(
            self.reason, self.detail, shard=self.shard, key=self.key, member=self.member, offset=self.offset
        )


def _shown(text: str) -> str:
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode()
