"""Foreign records -> drafts: LLaVA, ShareGPT and ms-swift spell one thing, a conversation about images, differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from owl_stream.errors import SampleError
from owl_stream.pack.entry import Draft
from owl_stream.records import FILE_NAMES, RecordOptions, is_empty, read_conversation

FORMATS: Mapping[str, tuple[str, ...]] = {
    "auto": ("conversations", "messages", "query", "response"),
    "llava": ("conversations",),
    "sharegpt": ("conversations",),
    "swift": ("messages", "query", "response"),
}
"""The fields of which a record of each format has at least one."""


def read_draft(record: Mapping[str, Any] | list[Any], form: str, options: RecordOptions) -> Draft:
    """The draft of a record: an object, or a bare list of turns.

    Raises:
        SampleError: it is not of that format, or says something that cannot be honoured.
    """
    conversation = read_conversation(record, options)
    own = None
    if isinstance(record, Mapping):
        if not any(name in record for name in FORMATS[form]):
            wanted = " or ".join(f"`{name}`" for name in FORMATS[form])
            raise SampleError("record_field", f"expected the field {wanted}, as --format {form} says")
        own = record.get("id")
    if conversation.videos:
        raise SampleError("media_unsupported", "`videos`: only images can be packed; write shards with frames yourself")
    images = conversation.images or ()
    if conversation.remote in FILE_NAMES and conversation.images is None and isinstance(record, Mapping):
        images = (record[conversation.remote],)
    elif conversation.remote and not images:
        detail = f"`{conversation.remote}` names a picture on the network; download it, and name it in `images`"
        raise SampleError("image_remote", detail)
    return Draft(
        conversation.messages,
        images,
        own if isinstance(own, str | int) and not isinstance(own, bool) and not is_empty(own) else None,
        conversation.literal,
        conversation.notes,
        tools=conversation.tools,
    )
