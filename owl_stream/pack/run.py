"""Packing from beginning to end: read in order, cut into shards, write several at a time, go on where a run was killed.

A restart reads the input again, finds the same shards, and writes those that are not there yet.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from owl_stream.errors import ConfigError, DataError
from owl_stream.pack.entry import BadInput
from owl_stream.pack.journal import BAD_LIST, MANIFEST, Journal
from owl_stream.pack.reading import Reading, cut
from owl_stream.pack.settings import PackProgress, PackSettings
from owl_stream.pack.tar import TEMPORARY, PackedShard, created, sync_directory
from owl_stream.pack.writing import Writing
from owl_stream.privacy import Readers, readers_of


@dataclass(frozen=True)
class Packed:
    """What came of it. `kept`: shards that an earlier run had finished. `manifest` and `bad_list` are files.

    `notes`: how many good records there are of each note (`owl_stream.records.notes`).
    """

    shards: tuple[PackedShard, ...]
    kept: int
    bad: tuple[BadInput, ...]
    notes: Mapping[str, int]
    manifest: Path
    bad_list: Path

    @property
    def samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.nbytes for shard in self.shards)


def pack(settings: PackSettings, workers: int, progress: Callable[[PackProgress], None] | None = None) -> Packed:
    """Pack the inputs; what an earlier run with the same settings has finished is kept. `workers`: shards at a time.

    Raises:
        ConfigError: an input or the output cannot be used.
        DataError: not one good record; a bad one, with `on_bad` "fail"; damage of an array; an image changed meanwhile.
    """
    reading = Reading(settings, progress or (lambda _: None))
    readers = readers_of(reading.inputs, settings.out)
    with Journal(settings.out, settings.name, settings.identity(), readers, settings.begin) as journal:
        writing = Writing(settings, journal, workers)
        try:
            for entries in cut(reading, settings.shard_bytes, settings.shard_samples):
                reading.shards += 1
                writing.add(entries)
            shards = writing.finish()
        finally:
            writing.close()
        if not shards:
            raise _nothing(settings, reading.bad)
        journal.forget_others({shard.name for shard in shards})
        manifest = settings.out / f"{settings.name}{MANIFEST}"
        bad_list = settings.out / f"{settings.name}{BAD_LIST}"
        summary = {"shards": [asdict(shard) for shard in shards], "bad": len(reading.bad)}
        _replace(manifest, json.dumps(summary, indent=1) + "\n", readers)
        _replace(bad_list, "".join(json.dumps(bad.describe()) + "\n" for bad in reading.bad), readers)
    return Packed(tuple(shards), writing.kept, tuple(reading.bad), dict(reading.notes), manifest, bad_list)


def _nothing(settings: PackSettings, bad: Sequence[BadInput]) -> DataError:
    inputs = ", ".join(map(str, settings.inputs))
    if not bad:
        return DataError(f"no record at all in {inputs}")
    reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(each.reason for each in bad).most_common())
    first = bad[0]
    return DataError(f"not one good record in {inputs}: {reasons}; the first: {first.origin}: {first.detail}")


def _replace(path: Path, text: str, readers: Readers) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with created(temporary, readers) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot write it: {exc.strerror}; make room, or choose another --out") from exc
