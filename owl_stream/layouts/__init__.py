"""Conversations -> rows -> text tensors: what a model family's batches must look like, one module per release.

Numpy only: it never decodes a picture, never loads a tokenizer and never touches a file.
"""

from owl_stream.layouts.registry import check_media_offset, get_layout
from owl_stream.layouts.types import (
    IGNORE,
    EncodedRow,
    Image,
    Layout,
    Medium,
    OffsetReport,
    TensorShape,
    Tokenizer,
    Tokens,
    Turn,
    Video,
    View,
)

__all__ = [
    "IGNORE",
    "EncodedRow",
    "Image",
    "Layout",
    "Medium",
    "OffsetReport",
    "TensorShape",
    "Tokenizer",
    "Tokens",
    "Turn",
    "Video",
    "View",
    "check_media_offset",
    "get_layout",
]
