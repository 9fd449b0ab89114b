"""What one stream was asked for, and the micro-batches that this names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from owl_stream import __version__
from owl_stream.assemble import Dataset
from owl_stream.engine import Coordinate
from owl_stream.wire import PROTOCOL_VERSION, Cursor, End, Hello


@dataclass(frozen=True)
class Journey:
    """What a stream was asked for: from `cursor`, every `stride`-th micro-batch, to the end of `epochs` epochs."""

    dataset: Dataset
    rank: int
    world_size: int
    micro_batch_size: int
    micros: int
    cursor: Cursor
    epochs: int
    stride: int

    def coordinates(self) -> Iterator[Coordinate]:
        """Every micro-batch of the journey, in order."""
        cursor, steps = self.cursor, self.dataset.steps_per_epoch
        while cursor.epoch < self.cursor.epoch + self.epochs:
            yield Coordinate(*cursor, self.rank, self.world_size, self.micro_batch_size)
            cursor = cursor.after(steps, self.micros, self.stride)

    def hello(self) -> Hello:
        """The first frame."""
        return Hello(
            protocol=PROTOCOL_VERSION,
            server=f"owl-stream/{__version__}",
            dataset=self.dataset.name,
            layout=self.dataset.layout.name,
            fingerprint=self.dataset.fingerprint,
            components=self.dataset.components,
            assembly=self.dataset.assembly,
            cursor=self.cursor,
            rank=self.rank,
            world_size=self.world_size,
            micro_batch_size=self.micro_batch_size,
            micros_per_step=self.micros,
            steps_per_epoch=self.dataset.steps_per_epoch,
            schema=self.dataset.schema,
        )

    def end(self) -> End:
        """The last frame of a journey that was completed."""
        return End(Cursor(self.cursor.epoch + self.epochs, 0, 0), True, self.dataset.totals)
