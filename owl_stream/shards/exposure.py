"""Index files that are there already are made as private as their shards.

Earlier versions wrote them for everyone to read, and a shard may have become private since it was indexed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from owl_stream.privacy import Readers, Sources, tighten
from owl_stream.shards.columns import columns_file
from owl_stream.shards.source import Shard
from owl_stream.shards.tables import IndexPlace

_TABLE = re.compile(r"(?P<stem>.+)(\.scan|\.[0-9a-f]{16}\.(cost|rows))")
_OF_ALL = re.compile(r"manifest\..+|\.[0-9a-f]{16}\.tmp")
"""Files that are made of several shards, and those that an indexing process left behind."""


def tighten_index(place: IndexPlace, shards: Sequence[Shard], address: str) -> None:
    """Let nobody read an index file, of any recipe, who may not read its shard. `address` is that of the columns.

    Files of other shards are left alone, as their privacy is another data set's matter. A directory `.owl-index` that
    holds nothing of other shards becomes private too; one that the user named (`index_dir`) keeps its mode.
    """
    inside = place.by_directory(shards)
    for directory, own in inside.items():
        sources = Sources(directory)
        everyone = sources.readers(shard.path for shard in own)
        if everyone.is_everyone or _is_closed(directory):
            continue
        if _tighten_tables(place, directory, own, sources):
            tighten(columns_file(place, shards, address), everyone)
            continue
        for path in _files(directory):
            if _OF_ALL.fullmatch(path.name):
                tighten(path, everyone)
        if place.index_dir is None:
            tighten(directory, everyone)
    if len(inside) > 1:  # the columns lie in one of the directories and hold what is in all of them
        columns = columns_file(place, shards, address)
        tighten(columns, place.readers(columns.parent, shards))


def _tighten_tables(place: IndexPlace, directory: Path, own: Sequence[Shard], sources: Sources) -> bool:
    """Tighten the tables of these shards; returns whether there are tables of others."""
    readers: dict[str, Readers] = {place.stem(shard): sources.readers([shard.path]) for shard in own}
    others = False
    for path in _files(directory):
        if table := _TABLE.fullmatch(path.name):
            of_shard = readers.get(table["stem"])
            others |= of_shard is None
            if of_shard is not None:
                tighten(path, of_shard)
    return others


def _is_closed(directory: Path) -> bool:
    """Whether nobody but the owner can reach what is in the directory."""
    try:
        return not os.stat(directory).st_mode & 0o077
    except OSError:
        return True


def _files(directory: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            yield Path(entry.path)
