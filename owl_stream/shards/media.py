"""Which members are a record's images and videos, and in which order.

Without a word from the record: every image member, in natural order of its name (2.jpg before 10.jpg), frames of videos
left out. A record may name members by file name, base name, or extensions (`0.jpg`). Its names may also be paths of the
data set that the sample came from: their base names count, and a single one stands for the single image there is.

What a member holds is said by its suffix, and where that says nothing, by its first bytes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal

from owl_stream.errors import SampleError
from owl_stream.records import Conversation
from owl_stream.shards.sample import Member, Sample
from owl_stream.shards.sniff import AUDIO_FORMATS, IMAGE_FORMATS, VIDEO_FORMATS, sniff

_PHOTOGRAPHS = frozenset(("jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "webp", "gif", "avif", "heic", "heif"))
_OTHER_IMAGES = frozenset(("bmp", "dib", "tif", "tiff", "jxl", "jp2", "svg", "ico", "pbm", "pgm", "ppm", "pnm"))
IMAGE_SUFFIXES = _PHOTOGRAPHS | _OTHER_IMAGES
VIDEO_SUFFIXES = frozenset(("mp4", "webm", "mov", "avi", "mkv", "m4v", "flv", "wmv", "mpg", "mpeg", "3gp", "ts"))
AUDIO_SUFFIXES = frozenset(("wav", "mp3", "flac", "ogg", "opus", "m4a", "aac", "wma"))
_TEXTS = frozenset(("json", "jsonl", "txt", "caption", "cls", "id", "csv", "tsv", "xml", "html", "md", "yaml", "yml"))
_DATA = frozenset(("pyd", "pkl", "pickle", "pt", "pth", "npy", "npz", "ten", "mp", "msgpack", "bin", "safetensors"))

_DIGITS = re.compile(r"([0-9]+)")

Kind = Literal["image", "video", "audio", ""]


def member_kind(member: Member) -> Kind:
    """What medium a member is; empty for none. Of data that could run code not even the first bytes are looked at."""
    suffix = member.ext.rpartition(".")[2]
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in _TEXTS or suffix in _DATA:
        return ""
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "audio" if suffix in AUDIO_SUFFIXES else _kind_by_content(member)


def _kind_by_content(member: Member) -> Kind:
    content = sniff(member.data)
    if content in IMAGE_FORMATS:
        return "image"
    if content in VIDEO_FORMATS:
        return "video"
    return "audio" if content in AUDIO_FORMATS else ""


def image_members(sample: Sample, besides: frozenset[str] = frozenset()) -> tuple[Member, ...]:
    """The sample's image members in natural order, those named in `besides` left out.

    Raises:
        SampleError: one of them has zero bytes.
    """
    images = [member for member in sample.members if member_kind(member) == "image" and member.name not in besides]
    if len(images) > 1:
        images.sort(key=_natural)
    return tuple([_filled(member) for member in images])


def choose_media(
    sample: Sample, conversation: Conversation
) -> tuple[tuple[Member, ...], tuple[tuple[Member, ...], ...]]:
    """(images, frames of each video), in the order in which markers consume them.

    Raises:
        SampleError: a name that is no image member; a video or audio member that nothing can use.
    """
    videos = tuple([tuple([_named(sample, name, "videos") for name in frames]) for frames in conversation.videos])
    named = conversation.images
    if named is None:
        if not videos:
            refuse_other_media(sample)
        return image_members(sample, besides=frozenset([frame.name for video in videos for frame in video])), videos
    if len(named) == 1 and not _matches(sample, named[0]) and _may_be_a_picture(named[0]):
        images = image_members(sample, besides=frozenset([frame.name for video in videos for frame in video]))
        if len(images) == 1:
            return images, videos
    chosen = [_named(sample, name, "images") for name in named]
    if len({member.name for member in chosen}) < len(set(named)):
        detail = (
            f"`images`: {len(set(named))} different names, but they fit only some members; name members by file name"
        )
        raise SampleError("image_ambiguous", detail)
    return tuple(chosen), videos


def _may_be_a_picture(name: str) -> bool:
    """Whether a path that fits no member can be the place where the sample's only picture once lay."""
    suffix = name.rpartition(".")[2].lower()
    return suffix not in VIDEO_SUFFIXES and suffix not in AUDIO_SUFFIXES and not name.startswith(("[", "{"))


def refuse_other_media(sample: Sample) -> None:
    """Raise for a video or audio member, which nothing here can use.

    Raises:
        SampleError: there is one.
    """
    for member in sample.members:
        if (kind := member_kind(member)) in ("video", "audio"):
            remedy = "extract frames as images, and list them in `videos`" if kind == "video" else "remove it"
            raise SampleError(
                "media_unsupported",
                f"{kind} files are not read; {remedy} (or list the images that are to be used in `images`)",
                member=member.name,
                offset=member.offset,
            )


def _matches(sample: Sample, name: str) -> list[Member]:
    members, name = sample.members, name.removeprefix("./")
    return (
        [member for member in members if member.name == name]
        or [member for member in members if _base_name(member.name) == name]
        or [member for member in members if member.name.endswith(f".{name}") and member.ext == name.lower()]
        or [member for member in members if member.ext == name.lower()]
        or [member for member in members if _base_name(member.name) == _base_name(name)]
    )


def _named(sample: Sample, name: str, field: str) -> Member:
    matches = _matches(sample, name)
    if not matches:
        images = [member for member in sample.members if member_kind(member) == "image"]
        shown = [text for member in images for text in (member.name, member.ext)]
        near = difflib.get_close_matches(name[:200], shown[:200], n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"image members: {_listed(images)}"
        raise SampleError("image_unknown", f"`{field}` names {name[:200]!r}, which is no member; {hint}")
    if len(matches) > 1:
        fits = ", ".join(member.name for member in matches[:4])
        raise SampleError("image_ambiguous", f"`{field}` names {name[:200]!r}, which fits {fits}; name it in full")
    if member_kind(matches[0]) != "image":
        raise SampleError("image_type", f"`{field}` names {name[:200]!r}, which is no image; name an image member")
    return _filled(matches[0])


def _listed(images: Sequence[Member]) -> str:
    return ", ".join(member.name for member in images[:8]) or "none"


def _filled(member: Member) -> Member:
    if len(member.data) == 0:
        detail = "the member has zero bytes"
        raise SampleError("member_empty", detail, member=member.name, offset=member.offset)
    return member


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]


def _natural(member: Member) -> tuple[list[str | int], str]:
    parts: list[str | int] = [int(part) if at % 2 else part for at, part in enumerate(_DIGITS.split(member.name))]
    return parts, member.name
