"""Foreign datasets -> WebDataset shards in the `messages` form: LLaVA, ShareGPT, ms-swift, folders with captions.

Never decodes an image, never follows a name out of its root unasked, never leaves half a shard behind.
"""

from owl_stream.pack.entry import BadInput, Entry, ImageFile
from owl_stream.pack.records import FORMATS
from owl_stream.pack.run import Packed, pack
from owl_stream.pack.settings import PackProgress, PackSettings
from owl_stream.pack.tar import PackedShard

__all__ = [
    "FORMATS",
    "BadInput",
    "Entry",
    "ImageFile",
    "PackProgress",
    "PackSettings",
    "Packed",
    "PackedShard",
    "pack",
]
