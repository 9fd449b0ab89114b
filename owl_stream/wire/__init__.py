"""Bytes <-> frames, in plain Python and numpy: `docs/wire.md` is the norm, this package its only implementation.

It never does I/O, never looks at a clock, and knows neither torch nor FastAPI.
"""

from owl_stream.wire.cursor import Cursor
from owl_stream.wire.frame import (
    ALIGNMENT,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MEDIA_TYPE,
    PROTOCOL_VERSION,
    Frame,
    Limits,
    PlacedFrame,
    frame_nbytes,
    pack_frame,
)
from owl_stream.wire.headers import (
    BatchHeader,
    End,
    ErrorInfo,
    Header,
    Heartbeat,
    Hello,
    Normalise,
    RowInfo,
    SchemaEntry,
    Stats,
    Status,
    Totals,
)
from owl_stream.wire.looks import BatchLook, LookPicture, LookRow, LookRun, pack_look, read_look
from owl_stream.wire.memory import (
    ACCEPTED,
    MAX_SLABS,
    MEMORY_EXTENSION,
    MEMORY_HEADER,
    SLAB,
    TAKEN,
    MemoryOffer,
    MemoryPlace,
)
from owl_stream.wire.parser import FrameParser, parse_frames
from owl_stream.wire.schema import check_schema, check_tensors
from owl_stream.wire.tensors import DTYPES, MAX_ELEMENTS, TensorSpec, lay_out, tensor_views

__all__ = [
    "ACCEPTED",
    "ALIGNMENT",
    "DTYPES",
    "MAX_ELEMENTS",
    "MAX_FRAME_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_SLABS",
    "MEDIA_TYPE",
    "MEMORY_EXTENSION",
    "MEMORY_HEADER",
    "PROTOCOL_VERSION",
    "SLAB",
    "TAKEN",
    "BatchHeader",
    "BatchLook",
    "Cursor",
    "End",
    "ErrorInfo",
    "Frame",
    "FrameParser",
    "Header",
    "Heartbeat",
    "Hello",
    "Limits",
    "LookPicture",
    "LookRow",
    "LookRun",
    "MemoryOffer",
    "MemoryPlace",
    "Normalise",
    "PlacedFrame",
    "RowInfo",
    "SchemaEntry",
    "Stats",
    "Status",
    "TensorSpec",
    "Totals",
    "check_schema",
    "check_tensors",
    "frame_nbytes",
    "lay_out",
    "pack_frame",
    "pack_look",
    "parse_frames",
    "read_look",
    "tensor_views",
]
