"""mPLUG-Owl3, both releases: crops, the text around them, and `media_offset`, which names them to the model."""

from owl_stream.layouts.owl3.check import check_media_offset
from owl_stream.layouts.owl3.offsets import OffsetReport
from owl_stream.layouts.owl3.release import TOKENS, Owl3Layout, Owl3Settings
from owl_stream.layouts.owl3.release_240728 import Owl3Layout240728
from owl_stream.layouts.owl3.release_241101 import Owl3Layout241101

__all__ = [
    "TOKENS",
    "OffsetReport",
    "Owl3Layout",
    "Owl3Layout240728",
    "Owl3Layout241101",
    "Owl3Settings",
    "check_media_offset",
]
