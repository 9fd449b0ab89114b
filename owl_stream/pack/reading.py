"""The inputs as one sequence of entries, cut into shards: which sample is in which shard depends on the input alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from owl_stream.errors import ConfigError, SampleError
from owl_stream.pack.captions import Folder
from owl_stream.pack.documents import Documents
from owl_stream.pack.entry import BLOCK, BadInput, Draft, Entry, Origin, make_entry
from owl_stream.pack.images import ImageRoot
from owl_stream.pack.records import read_draft
from owl_stream.pack.settings import PackProgress, PackSettings
from owl_stream.pack.unpackable import refuse_unpackable
from owl_stream.records import RecordOptions

PROGRESS_EVERY = 256
MAX_ID = 200
"""Characters of a record's own id that are told; some people put the whole record there."""


class Reading:
    """Iterates over the good entries of all inputs, in order; collects the bad ones, and notes about the good."""

    def __init__(self, settings: PackSettings, progress: Callable[[PackProgress], None]) -> None:
        self._settings, self._progress = settings, progress
        self._sources = [_source(settings, path) for path in settings.inputs]
        self.bad: list[BadInput] = []
        self.notes: Counter[str] = Counter()
        self.shards = 0

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that are read, but for images and captions."""
        return [path for source, _ in self._sources for path in source.inputs]

    def __iter__(self) -> Iterator[Entry]:
        number = samples = 0
        for source, images in self._sources:
            for origin, draft in _drafts(source, self._settings):
                entry = self._entry(f"{number:09d}", origin, draft, images)
                if entry is not None:
                    samples += 1
                    self.notes.update(entry.notes)
                    yield entry
                if number % PROGRESS_EVERY == 0:
                    self._tell(samples)
                number += 1
        self._tell(samples)

    def _entry(self, key: str, origin: Origin, draft: Draft | SampleError, images: ImageRoot) -> Entry | None:
        try:
            if isinstance(draft, SampleError):
                raise draft
            found = tuple(images.find(name) for name in draft.images)
            return make_entry(key, draft, found, draft.source or origin.source)
        except SampleError as exc:
            bad = BadInput(origin, exc.reason, exc.detail)
            if self._settings.on_bad == "fail":
                raise bad.error() from exc
            self.bad.append(bad)
            return None

    def _tell(self, samples: int) -> None:
        size = sum(source.size for source, _ in self._sources)
        done = sum(source.position for source, _ in self._sources)
        self._progress(PackProgress(done / max(size, 1), samples, self.shards))


def _source(settings: PackSettings, path: Path) -> tuple[Documents | Folder, ImageRoot]:
    if not path.exists():
        raise ConfigError(f"{path}: no such file or directory")
    if path.is_dir() and settings.format not in ("auto", "folder"):
        raise ConfigError(f"{path}: expected a file of {settings.format} records, got a directory")
    if not path.is_dir() and settings.format == "folder":
        raise ConfigError(f"{path}: expected a directory of images and captions, got a file")
    refuse_unpackable(path)
    root = settings.images or (path if path.is_dir() else path.parent)
    if not root.is_dir():
        raise ConfigError(f"--images {root}: no such directory")
    source = Folder(path, settings.prompt, settings.on_unknown_field) if path.is_dir() else Documents(path)
    return source, ImageRoot(root, allow_outside=settings.allow_outside)


def _drafts(source: Documents | Folder, settings: PackSettings) -> Iterator[tuple[Origin, Draft | SampleError]]:
    if isinstance(source, Folder):
        yield from source
        return
    options = RecordOptions(settings.on_unknown_field)
    for number, line, record in source:
        draft: Draft | SampleError
        try:
            draft = record if isinstance(record, SampleError) else read_draft(record, settings.format, options)
        except SampleError as exc:
            draft = exc
        yield Origin(str(source.path), line, number, _id(record)), draft


def _id(record: Mapping[str, Any] | list[Any] | SampleError) -> str | int | None:
    """What a record calls itself, for people who look for it."""
    own = record.get("id") if isinstance(record, Mapping) else None
    if isinstance(own, str):
        return own[:MAX_ID]
    return own if isinstance(own, int) and not isinstance(own, bool) else None


def cut(entries: Iterable[Entry], max_bytes: int, max_samples: int) -> Iterator[list[Entry]]:
    """Entries in order, each shard filled as far as it goes; one that is larger than a shard gets its own."""
    shard: list[Entry] = []
    nbytes = 2 * BLOCK
    for entry in entries:
        if shard and (nbytes + entry.nbytes > max_bytes or len(shard) >= max_samples):
            yield shard
            shard, nbytes = [], 2 * BLOCK
        shard.append(entry)
        nbytes += entry.nbytes
    if shard:
        yield shard
