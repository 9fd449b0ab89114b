"""What a checkpoint keeps of a dataset: a plain dict that survives JSON, and the rules for reading it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from owl_client.transport import Description, Share
from owl_stream.errors import RequestError, StateMismatchError
from owl_stream.wire import Cursor

STATE_VERSION = 1

MOST_COUNT = (1 << 63) - 1
"""Of any number in a state, and of epochs: cursors are kept in cells of 64 bits."""


@dataclass(frozen=True)
class Part:
    """Whose state it is, where DataLoader workers divide a pass over the data that began at `start`."""

    worker: int
    workers: int
    start: Cursor


@dataclass(frozen=True)
class State:
    """Which data, and the next micro-batch of it. Any one rank's state serves all ranks.

    With `part` it is one worker's own: what that worker reads next.
    """

    dataset: str
    fingerprint: str
    components: Mapping[str, str]
    assembly: str
    cursor: Cursor
    world_size: int
    micro_batch_size: int
    part: Part | None = None

    @classmethod
    def of(cls, dataset: Description, share: Share, cursor: Cursor, part: Part | None = None) -> State:
        """The state before `cursor`."""
        return cls(
            dataset.name,
            dataset.fingerprint,
            dataset.components,
            dataset.assembly,
            cursor,
            share.world_size,
            share.micro_batch_size,
            part,
        )

    def to_dict(self) -> dict[str, Any]:
        """The plain form: text, whole numbers and one map of texts."""
        part = self.part
        worker = {} if part is None else {"part": [part.worker, part.workers, *part.start]}
        return {
            "version": STATE_VERSION,
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "components": dict(self.components),
            "assembly": self.assembly,
            **self.cursor._asdict(),
            "world_size": self.world_size,
            "micro_batch_size": self.micro_batch_size,
            **worker,
        }

    @classmethod
    def from_dict(cls, raw: object) -> State:
        """Read the plain form; keys that are not known are left alone.

        Raises:
            RequestError: a key is missing or has a value that cannot be, by name.
            StateMismatchError: another version of the format.
        """
        if not isinstance(raw, Mapping):
            raise RequestError(f"state: expected what state_dict() returned, got {type(raw).__name__}")
        version = _count(raw, "version")
        if version != STATE_VERSION:
            raise StateMismatchError(
                f"state: expected format version {STATE_VERSION}, got {version}; install the owl-stream that wrote it",
                {"version": (str(STATE_VERSION), str(version))},
            )
        components = raw.get("components")
        if not isinstance(components, Mapping):
            raise RequestError(f"state: expected a map at 'components', got {components!r:.80}")
        return cls(
            dataset=_text(raw, "dataset"),
            fingerprint=_text(raw, "fingerprint"),
            components={str(name): str(value) for name, value in components.items()},
            assembly=_text(raw, "assembly"),
            cursor=Cursor(_count(raw, "epoch"), _count(raw, "step"), _count(raw, "micro")),
            world_size=_count(raw, "world_size", least=1),
            micro_batch_size=_count(raw, "micro_batch_size", least=1),
            part=_part(raw.get("part")),
        )


def start_cursor(state: State, dataset: Description, share: Share) -> Cursor:
    """Where `share` goes on after `state`, normalised: the end of an epoch is the start of the next.

    Raises:
        RequestError: the cursor is past the epoch, or the share changed in the middle of a global step.
    """
    cursor, micros = state.cursor, dataset.global_batch_size // (share.world_size * share.micro_batch_size)
    was, now = (state.world_size, state.micro_batch_size), (share.world_size, share.micro_batch_size)
    if cursor.micro and was != now:
        raise RequestError(
            f"state: micro-batch {cursor.micro} of step {cursor.step} was cut for world size {was[0]} and "
            f"micro-batches of {was[1]}; got {now[0]} and {now[1]}: they may change only between steps (micro 0)"
        )
    if cursor.micro >= micros or cursor.ordinal(micros) > dataset.steps_per_epoch * micros:
        raise RequestError(
            f"state: step {cursor.step}, micro {cursor.micro} is past an epoch of {dataset.steps_per_epoch} steps of "
            f"{micros} micro-batches"
        )
    return cursor.after(dataset.steps_per_epoch, micros, 0)


def _part(raw: object) -> Part | None:
    if raw is None:
        return None
    keys = ("worker", "workers", "epoch", "step", "micro")
    if not isinstance(raw, list | tuple) or len(raw) != len(keys):
        raise RequestError(f"state: expected {len(keys)} whole numbers at 'part', got {raw!r:.80}")
    worker, workers, *start = (_count(dict(zip(keys, raw, strict=True)), key) for key in keys)
    return Part(worker, workers, Cursor(*start))


def _text(raw: Mapping[Any, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise RequestError(f"state: expected text at {key!r}, got {value!r:.80}")
    return value


def _count(raw: Mapping[Any, Any], key: str, least: int = 0) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_COUNT:
        raise RequestError(f"state: expected a whole number from {least} at {key!r}, got {value!r:.80}")
    return value
