"""How large a number, a text or a list of a header may be: the decoder refuses the rest before it makes anything of it.

Each bound is far above what a real server says, and low enough that nothing computed from a value overflows or takes
long. docs/wire.md, Limits, has the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

MAX_COUNT = 1 << 53
"""Any reader holds whole numbers up to it exactly, also one whose only numbers are doubles."""
MAX_WORLD_SIZE = 1 << 20
MAX_BATCH_ROWS = 1 << 16
"""Rows of a global batch: the server's own setting allows no more."""
MAX_STEPS = 1 << 40
"""Steps of an epoch. Their micro-batches together are still a length that Python's `len` can return."""
MAX_NAME_LENGTH = 4096
"""Characters of a name or digest: as long as the path of a file may be."""
MAX_MESSAGE_LENGTH = 1 << 16
MAX_TENSORS = 64
MAX_DIMENSIONS = 8
MAX_REPEAT = 16
"""How often a picture may stand for a frame."""
MAX_NAMED_VALUES = 256
"""Entries of a map: of components, or of statistics."""

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Epoch = Annotated[int, Meta(ge=0)]
"""Epochs are asked for by the reader, which may count as far as 64 bits go."""
Rank = Annotated[int, Meta(ge=0, lt=MAX_WORLD_SIZE)]
WorldSize = Annotated[int, Meta(ge=1, le=MAX_WORLD_SIZE)]
RowCount = Annotated[int, Meta(ge=1, le=MAX_BATCH_ROWS)]
StepCount = Annotated[int, Meta(ge=0, le=MAX_STEPS)]
Number = Annotated[float, Meta(ge=-MAX_COUNT, le=MAX_COUNT)]
"""Finite, so that sums and comparisons of it mean something."""
Name = Annotated[str, Meta(max_length=MAX_NAME_LENGTH)]
Message = Annotated[str, Meta(max_length=MAX_MESSAGE_LENGTH)]
Shape = Annotated[tuple[Count, ...], Meta(max_length=MAX_DIMENSIONS)]
Letter = Annotated[str, Meta(min_length=1, max_length=8)]
"""Stands for a size within a batch."""
Channels = Annotated[tuple[Number, ...], Meta(min_length=1, max_length=4)]
"""A number for each channel of a picture."""
NamedCounts = Annotated[Mapping[Letter, Count], Meta(max_length=MAX_TENSORS)]
NamedTexts = Annotated[Mapping[Name, Name], Meta(max_length=MAX_NAMED_VALUES)]
NamedNumbers = Annotated[Mapping[Name, Number], Meta(max_length=MAX_NAMED_VALUES)]
