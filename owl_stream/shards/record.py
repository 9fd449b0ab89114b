"""Sample -> conversation and media: a document of turns, or images with a caption.

A member `json` holds the conversation (`records` has its forms). Beside a `txt` or `caption` member it counts only if
it is a conversation; else it is metadata, as image downloaders write it, and the caption is the answer to the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from owl_stream.errors import SampleError
from owl_stream.records import (
    IMAGE_MARKER,
    Message,
    RecordOptions,
    find_conversation,
    is_conversation,
    note,
    parse_json,
    place_media,
    read_conversation,
    read_text,
)
from owl_stream.shards.media import choose_media, image_members, refuse_other_media
from owl_stream.shards.sample import Member, Sample
from owl_stream.shards.sniff import sniff

_TEXTS = ("txt", "caption")
_MOST_NOTES = 16
_DEFAULT = RecordOptions()


class Record(NamedTuple):
    """A conversation: optionally system, then user and assistant in turns, the assistant last; results behind calls.

    `images` are consumed by `<|image|>` and `videos` (their frames) by `<|video|>`, in order; the numbers agree.
    `notes`: what is worth telling about the sample (`owl_stream.records.notes`). `tools`: schemas as they were written.
    """

    messages: tuple[Message, ...]
    images: tuple[Member, ...]
    videos: tuple[tuple[Member, ...], ...]
    notes: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


def read_record(sample: Sample, options: RecordOptions = _DEFAULT) -> Record:
    """The sample's conversation and media.

    Raises:
        SampleError: with shard, key and, where one is to blame, member and offset.
    """
    try:
        return _read(sample, options)
    except SampleError as exc:
        raise exc.at(shard=sample.shard, key=sample.key) from exc.__cause__


def _read(sample: Sample, options: RecordOptions) -> Record:
    document = next((member for member in sample.members if member.ext == "json"), None)
    captions = [member for member in sample.members if member.ext in _TEXTS]
    if document is not None:
        with _blaming(document):
            found = find_conversation(document.data, is_conversation) if captions else parse_json(document.data)
            if found is not None or not captions:
                return _from_document(sample, document, found, options)
    if not captions:
        raise SampleError("record_missing", f"expected a member json, txt or caption, {_what_is_there(sample)}")
    if len(captions) > 1:
        with _blaming(captions[1]):
            raise SampleError("record_ambiguous", "both a txt and a caption member; keep one")
    with _blaming(captions[0]):
        return _from_caption(sample, captions[0], document, options)


def _from_caption(sample: Sample, caption: Member, metadata: Member | None, options: RecordOptions) -> Record:
    images = image_members(sample)
    refuse_other_media(sample)
    if not images:
        raise SampleError("image_count", "a caption needs at least one image member, got none")
    if sniff(caption.data) == "git-lfs":
        detail = "a Git LFS pointer, not the caption; run `git lfs pull` where the shards were made"
        raise SampleError("text_lfs_pointer", detail)
    answer = read_text(caption.data).strip()
    if not answer:
        raise SampleError("record_empty", "the caption is empty")
    turns = (Message("user", IMAGE_MARKER * len(images)), Message("assistant", answer))
    messages, _ = place_media(turns, len(images), 0, options.literal_markers)
    used = [caption, *images] if metadata is None else [caption, metadata, *images]
    return Record(tuple(messages), images, (), _unused(sample, used))


def _from_document(sample: Sample, document: Member, value: object, options: RecordOptions) -> Record:
    conversation = read_conversation(value, options)
    images, videos = choose_media(sample, conversation)
    if conversation.remote and not images and not videos:
        detail = f"`{conversation.remote}` names a picture, and the sample has none; put the picture beside the record"
        raise SampleError("image_missing", detail)
    literal, tools = conversation.literal, conversation.tools
    messages, in_front = place_media(conversation.messages, len(images), len(videos), literal, tools)
    used = [document, *images, *[frame for video in videos for frame in video]]
    notes = (*in_front, *conversation.notes, *_unused(sample, used))
    if len(notes) > _MOST_NOTES:
        notes = (*notes[: _MOST_NOTES - 1], note("other"))
    return Record(tuple(messages), images, videos, notes, tools)


def _unused(sample: Sample, used: Sequence[Member]) -> tuple[str, ...]:
    if len(used) == len(sample.members):
        return ()
    names = {member.name for member in used}
    suffixes = [member.ext.rpartition(".")[2] for member in sample.members if member.name not in names]
    return tuple(dict.fromkeys(note("unused_member", suffix) for suffix in suffixes))


def _what_is_there(sample: Sample) -> str:
    found = ", ".join(member.ext for member in sample.members[:10])
    text = next((member for member in sample.members if member.ext.rpartition(".")[2] in ("json", *_TEXTS)), None)
    if text is None:
        return f"got {found}"
    return (
        f"got {found}: a key ends at the first dot of a name, so this is sample `{sample.key}`, and `.{text.ext}` is "
        "one long extension; rename members so that their only dot is the one before json or txt"
    )


@contextmanager
def _blaming(member: Member) -> Iterator[None]:
    """Errors that name no member are this one's."""
    try:
        yield
    except SampleError as exc:
        if not exc.member:
            exc.at(member=member.name, offset=member.offset)
        raise
