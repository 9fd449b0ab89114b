"""Records: what a JSON document says about one sample, whoever wrote it. Shards and `pack` both read records here.

Never opens a file, knows no tar and no path: media are names, and who calls says which media there are.
"""

from owl_stream.records.conversation import Conversation, is_conversation, read_conversation
from owl_stream.records.document import check_text, find_conversation, key_that_comes_twice, parse_json, read_text
from owl_stream.records.fields import FILE_NAMES, is_empty, judge_caption
from owl_stream.records.markers import IMAGE_MARKER, VIDEO_MARKER, place_media
from owl_stream.records.notes import describe_note, note
from owl_stream.records.options import RecordOptions
from owl_stream.records.turns import Message

__all__ = [
    "FILE_NAMES",
    "IMAGE_MARKER",
    "VIDEO_MARKER",
    "Conversation",
    "Message",
    "RecordOptions",
    "check_text",
    "describe_note",
    "find_conversation",
    "is_conversation",
    "is_empty",
    "judge_caption",
    "key_that_comes_twice",
    "note",
    "parse_json",
    "place_media",
    "read_conversation",
    "read_text",
]
