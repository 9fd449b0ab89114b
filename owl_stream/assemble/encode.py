"""A sample -> its row of text and the pictures behind it. Indexing and assembly both go this way, so they agree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from owl_stream.assemble.header import Header, probe
from owl_stream.assemble.work import check_bytes, resizing_bytes
from owl_stream.errors import ConfigError, SampleError
from owl_stream.layouts import Chat, EncodedRow, Image, Medium, Tokenizer, Video, Visual
from owl_stream.layouts.recipe import Recipe
from owl_stream.records import IMAGE_MARKER, VIDEO_MARKER, RecordOptions
from owl_stream.shards import Member, Record, Sample, read_record

_MARKER = re.compile("|".join(map(re.escape, (IMAGE_MARKER, VIDEO_MARKER))))


class Picture(NamedTuple):
    """An image member and what its header says."""

    member: Member
    header: Header


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """A sample's key, its row, and for each of the row's visuals the picture to decode.

    `notes`: what is worth telling about it; known only where its record was read.
    """

    key: str
    row: EncodedRow
    pictures: tuple[tuple[Visual, Picture], ...]
    notes: tuple[str, ...] = ()


class Encoder:
    """Encodes samples by one recipe. `indexed`: only samples whose very bytes it has accepted before."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, *, indexed: bool = False) -> None:
        self._recipe, self._tokenizer, self._indexed = recipe, tokenizer, indexed
        self._layout = recipe.make_layout()
        self._options = RecordOptions(recipe.on_unknown_field, recipe.literal_markers)

    def encode(self, sample: Sample) -> EncodedSample:
        """Read the record and the image headers, and encode the conversation.

        Raises:
            SampleError: with shard and key, and the member where one is at fault.
            ConfigError: a layout of one's own fails.
        """
        try:
            record = read_record(sample, self._options)
            media = [(kind, [self._probe(member) for member in members]) for kind, members in _in_order(record)]
            sizes = [_medium(kind, pictures) for kind, pictures in media]
            chat = Chat(record.messages, record.tools)
            row = self._layout.encode(chat, sizes, self._tokenizer, self._recipe.limit)
            if not isinstance(row, EncodedRow):
                raise ConfigError(f"`layout`: {self._recipe.layout}: `encode`: expected an EncodedRow, got {row!r:.80}")
            pictures = tuple((visual, media[visual.medium][1][visual.frame]) for visual in row.visuals)
            for visual, picture in pictures:
                self._weigh(visual, picture)
        except SampleError as exc:
            exc.at(shard=sample.shard, key=sample.key)
            raise
        return EncodedSample(sample.key, row, pictures, record.notes)

    def _probe(self, member: Member) -> Picture:
        try:
            limits = self._recipe.max_image_pixels, self._recipe.max_image_bytes
            return Picture(member, probe(member.data, *limits, indexed=self._indexed))
        except SampleError as exc:
            exc.at(member=member.name, offset=member.offset)
            raise

    def _weigh(self, visual: Visual, picture: Picture) -> None:
        """Refuse a picture whose resizing would take too much memory: how large it becomes is known only now."""
        header, recipe = picture.header, self._recipe
        try:
            nbytes = resizing_bytes(header.width, header.height, self._layout.targets(visual))
            check_bytes(header.format, header.width, header.height, nbytes, recipe.max_image_bytes)
        except SampleError as exc:
            exc.at(member=picture.member.name, offset=picture.member.offset)
            raise


def _in_order(record: Record) -> Iterator[tuple[str, tuple[Member, ...]]]:
    """The media as the conversation names them: (marker, members). The record's numbers agree, so nothing is left."""
    images, videos = iter(record.images), iter(record.videos)
    for message in record.messages:
        for marker in _MARKER.findall(message.content):
            yield marker, next(videos) if marker == VIDEO_MARKER else (next(images),)


def _medium(kind: str, pictures: Sequence[Picture]) -> Medium:
    sizes = tuple(Image(picture.header.width, picture.header.height) for picture in pictures)
    return Video(sizes) if kind == VIDEO_MARKER else sizes[0]
