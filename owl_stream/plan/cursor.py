"""Cursor arithmetic: which (epoch, step, micro) exist, and the one name that each has."""

from __future__ import annotations

from typing import Protocol

from owl_stream.errors import RequestError

MAX_EPOCH = (1 << 63) - 1


class _HasSteps(Protocol):
    @property
    def steps_per_epoch(self) -> int: ...


def check_cursor(plan: _HasSteps, epoch: int, step: int, micro: int, micros: int) -> tuple[int, int, int]:
    """The normalised (epoch, step, micro) of the next micro-batch, where a rank has `micros` per step.

    (e, steps_per_epoch, 0) is the end of epoch e and normalises to (e + 1, 0, 0). A micro equal to `micros` is refused:
    it comes from a state of another micro-batch size, and going on would lose rows silently.

    Raises:
        RequestError: a part is negative, not a whole number, or past the end.
    """
    steps = plan.steps_per_epoch
    _check("epoch", epoch, MAX_EPOCH, "")
    _check("step", step, steps, f": an epoch has {steps} steps")
    last = 0 if step == steps else micros - 1
    why = "the end of the epoch" if step == steps else f"a rank has {micros} micro-batches per step"
    _check("micro", micro, last, f": {why}")
    return (int(epoch) + 1, 0, 0) if step == steps else (int(epoch), int(step), int(micro))


def _check(name: str, value: int, last: int, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= last:
        raise RequestError(f"cursor, {name}: expected a whole number from 0 to {last}{why}, got {value!r}")
