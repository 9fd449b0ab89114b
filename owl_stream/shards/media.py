"""Which members are a record's images and videos, and in which order.

Without a word from the record: every image member, in natural order of its name (2.jpg before 10.jpg), frames of videos
left out. `images: [...]` and `videos: [[...], ...]` name members by file name, base name, or extensions (`0.jpg`).
LLaVA's `image` (a name or a list) does the same, and since it is a path of the data set the sample came from, its base
name counts too; a single name that fits nothing stands for the single image member there is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from owl_stream.shards.document import fault, kind
from owl_stream.shards.sample import Member, Sample

IMAGE_SUFFIXES = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"))

_DIGITS = re.compile(r"([0-9]+)")


def image_members(sample: Sample, besides: frozenset[str] = frozenset()) -> tuple[Member, ...]:
    """The sample's image members in natural order, those named in `besides` left out.

    Raises:
        SampleError: one of them has zero bytes.
    """
    images = [member for member in sample.members if _is_image(member) and member.name not in besides]
    if len(images) > 1:
        images.sort(key=_natural)
    return tuple([_filled(member) for member in images])


def choose_videos(sample: Sample, fields: Mapping[str, Any], document: Member) -> tuple[tuple[Member, ...], ...]:
    """The frames of each video that `videos` lists.

    Raises:
        SampleError: not a list of lists of names of image members.
    """
    videos = fields.get("videos")
    if videos is None:
        return ()
    if not isinstance(videos, list):
        raise fault(document, "record_type", f"`videos`: expected a list of lists of names, got {kind(videos)}")
    return tuple(_frames(sample, frames, f"videos[{at}]", document) for at, frames in enumerate(videos))


def choose_images(
    sample: Sample, fields: Mapping[str, Any], document: Member, videos: tuple[tuple[Member, ...], ...]
) -> tuple[Member, ...]:
    """The images in the order in which markers consume them.

    Raises:
        SampleError: a name that is no image member, or both `images` and `image`.
    """
    listed, original = fields.get("images"), fields.get("image")
    if listed is not None and original is not None:
        raise fault(document, "record_ambiguous", "both `images` and `image`; keep one")
    if listed is not None:
        return tuple(_named(sample, name, "images", document) for name in _name_list(listed, "images", document))
    frames = frozenset([frame.name for video in videos for frame in video])
    if original is None:
        return image_members(sample, besides=frames)
    names = _name_list([original] if isinstance(original, str) else original, "image", document)
    images = image_members(sample, besides=frames)
    if len(names) == len(images) == 1:
        return images
    return tuple(_named(sample, _base_name(name), "image", document) for name in names)


def _frames(sample: Sample, frames: object, where: str, document: Member) -> tuple[Member, ...]:
    names = _name_list(frames, where, document)
    if not names:
        raise fault(document, "video_empty", f"`{where}` lists no frame")
    return tuple(_named(sample, name, where, document) for name in names)


def _name_list(names: object, where: str, document: Member) -> list[str]:
    if not isinstance(names, list):
        raise fault(document, "record_type", f"`{where}`: expected a list of member names, got {kind(names)}")
    for name in names:
        if not isinstance(name, str):
            raise fault(document, "record_type", f"`{where}`: expected member names, got {kind(name)}")
    return names


def _named(sample: Sample, name: str, where: str, document: Member) -> Member:
    matches = (
        [member for member in sample.members if member.name == name]
        or [member for member in sample.members if _base_name(member.name) == name]
        or [member for member in sample.members if member.ext == name.lower()]
    )
    if not matches:
        candidates = [shown for member in sample.members if _is_image(member) for shown in (member.name, member.ext)]
        near = difflib.get_close_matches(name[:200], candidates[:200], n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"image members: {', '.join(candidates[:16:2]) or 'none'}"
        raise fault(document, "image_unknown", f"`{where}` names {name[:200]!r}, which is no member; {hint}")
    if not _is_image(matches[0]):
        valid = ", ".join(sorted(IMAGE_SUFFIXES))
        raise fault(document, "image_type", f"`{where}` names {name[:200]!r}, which is no image ({valid})")
    return _filled(matches[0])


def _filled(member: Member) -> Member:
    if len(member.data) == 0:
        raise fault(member, "member_empty", "the member has zero bytes")
    return member


def _is_image(member: Member) -> bool:
    return member.ext.rpartition(".")[2] in IMAGE_SUFFIXES


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]


def _natural(member: Member) -> tuple[list[str | int], str]:
    parts: list[str | int] = [int(part) if at % 2 else part for at, part in enumerate(_DIGITS.split(member.name))]
    return parts, member.name
