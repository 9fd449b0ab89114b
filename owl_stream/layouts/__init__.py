"""Conversations -> rows -> tensors: what a model family's batches must look like, one module or package per family.

Numpy, and Jinja for chat templates: it never decodes a picture, never loads a tokenizer and never runs a model.
"""

from owl_stream.layouts.owl3 import OffsetReport, check_media_offset
from owl_stream.layouts.recipe import Recipe, check_batch, settle_all, settle_recipe
from owl_stream.layouts.registry import LAYOUT_NAMES, get_layout, released_models
from owl_stream.layouts.types import (
    IGNORE,
    BatchReport,
    Chat,
    Choices,
    EncodedRow,
    Filter,
    Image,
    Layout,
    LengthLimit,
    Medium,
    Pixels,
    Resize,
    RowLook,
    SpecialTokens,
    Tokenizer,
    Tokens,
    Transparency,
    Turn,
    Video,
    Visual,
)

__all__ = [
    "IGNORE",
    "LAYOUT_NAMES",
    "BatchReport",
    "Chat",
    "Choices",
    "EncodedRow",
    "Filter",
    "Image",
    "Layout",
    "LengthLimit",
    "Medium",
    "OffsetReport",
    "Pixels",
    "Recipe",
    "Resize",
    "RowLook",
    "SpecialTokens",
    "Tokenizer",
    "Tokens",
    "Transparency",
    "Turn",
    "Video",
    "Visual",
    "check_batch",
    "check_media_offset",
    "get_layout",
    "released_models",
    "settle_all",
    "settle_recipe",
]
