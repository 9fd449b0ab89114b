"""A place in the endless sequence of micro-batches that one rank is given."""

from __future__ import annotations

from typing import NamedTuple

from owl_stream.wire.bounds import Count, Epoch


class Cursor(NamedTuple):
    """The next micro-batch a rank has not been given: `micro` of global step `step` of `epoch`, all from 0.

    Cursors order as the sequence does. `micros` below is M, the micro-batches a rank gets per global step.
    """

    epoch: Epoch
    step: Count
    micro: Count

    def ordinal(self, micros: int) -> int:
        """Count of the rank's micro-batches in this epoch before this one."""
        return self.step * micros + self.micro

    @classmethod
    def at(cls, epoch: int, ordinal: int, micros: int) -> Cursor:
        """The cursor before which a rank has been given `ordinal` micro-batches of `epoch`."""
        return cls(epoch, *divmod(ordinal, micros))

    def after(self, steps_per_epoch: int, micros: int, stride: int = 1) -> Cursor:
        """The cursor `stride` micro-batches on; past the epoch's last step it is (epoch + 1, 0, 0)."""
        ordinal = self.ordinal(micros) + stride
        if ordinal >= steps_per_epoch * micros:
            return Cursor(self.epoch + 1, 0, 0)
        return Cursor.at(self.epoch, ordinal, micros)
