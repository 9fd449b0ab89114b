"""Row tables: bytes that come back as they were, or not at all."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from owl_stream.shards import Index, IndexPlace, MeasureFactory, RowTables, Shard, build_index, find_shards
from owl_stream.shards import rows as rows_module
from owl_stream.shards.tables import load_tables
from tests.shards.measures import Recording, even_only_kept, key_kept
from tests.shards.test_build import ENVIRON, index_files
from tests.support.tars import write_shard

TABLES = RowTables(IndexPlace(None), "r")


def one_shard(base: Path, samples: int = 6) -> Shard:
    """`s-0.tar` with keys 0000, 0001, ..."""
    write_shard(base / "s-0.tar", [(f"{at:04d}", {"txt": b"x" * at}) for at in range(samples)])
    (shard,) = find_shards(["s-0.tar"], base)
    return shard


def build(base: Path, measure: MeasureFactory = key_kept, *, processes: int = 0, keep_rows: bool = True) -> Index:
    """An index of `s-*.tar` with row tables beside it."""
    shards = find_shards(["s-*.tar"], base)
    return build_index(shards, measure, "r", None, processes=processes, on_bad_sample="mask", keep_rows=keep_rows)


def digests_of(index: Index) -> list[int]:
    """Every sample's digest, in order of ids."""
    digests: list[int] = index.spans(np.arange(index.samples)).digest.tolist()
    return digests


def rows_of(index: Index, tables: RowTables = TABLES) -> list[bytes | None]:
    """Every sample's row, in order of ids."""
    spans = index.spans(np.arange(index.samples))
    rows = []
    for shard, number, digest in zip(spans.shard, spans.number, spans.digest, strict=True):
        table = tables.open(index.shards[shard])
        rows.append(table.read(int(number), int(digest)) if table is not None else None)
        if table is not None:
            table.close()
    return rows


def test_rows_come_back_by_number(tmp_path: Path) -> None:
    """One for each good sample of each shard, whatever lies between them."""
    for shard in range(3):
        write_shard(tmp_path / f"s-{shard}.tar", [(f"{shard}{at:03d}", {"txt": b"x"}) for at in range(4)])
    with build(tmp_path) as index:
        assert rows_of(index) == [f"row of {shard}{at:03d}".encode() for shard in range(3) for at in range(4)]


@pytest.mark.parametrize("processes", [0, 2])
def test_only_good_samples_are_numbered(tmp_path: Path, processes: int) -> None:
    """Neither what the measure refused nor what the scan found broken, even after it was measured, takes a number."""
    write_shard(tmp_path / "s-0.tar", [(f"{at:04d}", {"txt": b"x"}) for at in (0, 1, 2, 4, 6, 2, 8)])
    with build(tmp_path, even_only_kept, processes=processes) as index:
        assert rows_of(index) == [b"row of 0000", b"row of 0004", b"row of 0006", b"row of 0008"]


def test_many_rows_are_gathered_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a limit they leave memory, for a file without a name in the index directory."""
    shard = one_shard(tmp_path)
    build(tmp_path).close()
    whole = TABLES.path(shard).read_bytes()
    TABLES.path(shard).unlink()
    monkeypatch.setattr(rows_module, "_IN_MEMORY_BYTES", 16)
    monkeypatch.setattr(rows_module, "_COPY_BYTES", 7)
    before = {path.name for path in index_files(tmp_path)}
    with build(tmp_path) as index:
        assert rows_of(index)[5] == b"row of 0005"
    assert TABLES.path(shard).read_bytes() == whole
    assert {path.name for path in index_files(tmp_path)} == before | {TABLES.path(shard).name}


def test_no_row_passes_for_another(tmp_path: Path) -> None:
    """The sample's digest is part of the check, so a number that means another sample now finds nothing."""
    shard = one_shard(tmp_path)
    with build(tmp_path) as index:
        digests = digests_of(index)
    table = TABLES.open(shard)
    assert table is not None
    found = [[table.read(number, digest) is not None for digest in digests] for number in range(6)]
    assert found == [[number == of for of in range(6)] for number in range(6)]
    assert table.read(-1, digests[0]) is None
    assert table.read(6, digests[0]) is None
    table.close()


def test_a_flipped_bit_costs_at_most_the_rows_it_touches(tmp_path: Path) -> None:
    """In rows, entries or footer: what is read is right, or nothing."""
    shard = one_shard(tmp_path)
    with build(tmp_path) as index:
        path, right = TABLES.path(shard), rows_of(index)
        raw = path.read_bytes()
        for at, bit in itertools.product(range(len(raw)), range(8)):
            path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :])
            got = rows_of(index)
            lost = sum(row is None for row in got)
            assert all(row in (None, expected) for row, expected in zip(got, right, strict=True)), at
            assert lost in (0, 1, 6), at
            assert lost > 0 or at >= len(raw) - 80, at


def test_a_file_that_was_cut_gives_what_it_can(tmp_path: Path) -> None:
    """At any length, under an open table and before it is opened."""
    shard = one_shard(tmp_path)
    with build(tmp_path) as index:
        path, right = TABLES.path(shard), rows_of(index)
        raw, digests = path.read_bytes(), digests_of(index)
        table = TABLES.open(shard)
        assert table is not None
        for length in range(len(raw) - 1, -1, -1):
            os.truncate(path, length)
            assert rows_of(index) == [None] * 6, length
            got = [table.read(number, digest) for number, digest in enumerate(digests)]
            assert all(row in (None, expected) for row, expected in zip(got, right, strict=True)), length
        table.close()


def test_a_row_table_belongs_to_the_tables_it_was_made_with(tmp_path: Path) -> None:
    """Of the same shard file and recipe, but of another scan, its numbers may mean other samples."""
    shard = one_shard(tmp_path)
    build(tmp_path).close()
    tables = load_tables(TABLES.place, shard, TABLES.recipe_digest)
    assert tables is not None
    assert TABLES.is_whole(shard, tables.digest)
    assert not TABLES.is_whole(shard, bytes(len(tables.digest)))


def test_an_entry_cannot_ask_for_any_amount_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than any recipe allows is damage, and is not read to find out."""
    shard = one_shard(tmp_path)
    with build(tmp_path) as index:
        (digest, *_) = digests_of(index)
    table = TABLES.open(shard)
    assert table is not None
    assert table.read(0, digest) == b"row of 0000"
    monkeypatch.setattr(rows_module, "_MOST_ROW_BYTES", 10)
    assert table.read(0, digest) is None
    table.close()


def test_a_table_of_something_else_is_not_opened(tmp_path: Path) -> None:
    """Of another recipe, of the shard as it was before, or none at all."""
    shard = one_shard(tmp_path)
    assert TABLES.open(shard) is None
    build(tmp_path).close()
    other = RowTables(IndexPlace(None), "other")
    other.path(shard).write_bytes(TABLES.path(shard).read_bytes())
    assert other.open(shard) is None
    touched = replace(shard, mtime_ns=shard.mtime_ns + 1)
    assert TABLES.open(touched) is None
    table = TABLES.open(shard)
    assert table is not None
    table.close()


def test_an_index_without_rows_is_completed_once(tmp_path: Path) -> None:
    """Whoever wants rows later reads the shards again; the manifest stays, and who wants none is not bothered."""
    one_shard(tmp_path)
    (tmp_path / "seen").mkdir()
    recording = Recording(tmp_path / "seen", key_kept())
    with build(tmp_path, recording, keep_rows=False) as bare:
        assert recording.seen() == ["s-0.tar"]
        with build(tmp_path, recording) as kept:
            assert recording.seen() == ["s-0.tar"]
            assert (kept.manifest_digest, kept.cost_digest) == (bare.manifest_digest, bare.cost_digest)
    for keep_rows in (True, False):
        build(tmp_path, recording, keep_rows=keep_rows).close()
        assert recording.seen() == []


@pytest.mark.parametrize("harm", ["vanished", "cut", "entry", "footer", "empty"])
def test_a_row_table_that_is_not_whole_is_made_again(tmp_path: Path, harm: str) -> None:
    """Seen when the index is opened and its tables are read; with a shortcut, only what changes the file's very end."""
    shard = one_shard(tmp_path)
    (tmp_path / "seen").mkdir()
    recording = Recording(tmp_path / "seen", key_kept())
    build(tmp_path, recording).close()
    path = TABLES.path(shard)
    raw = path.read_bytes()
    entry = len(raw) - 8 - 72 - 3
    harms = {"cut": raw[:-9], "entry": raw[:entry] + b"?" + raw[entry + 1 :], "footer": raw[:-1] + b"?", "empty": b""}
    path.write_bytes(harms.get(harm, b""))
    if harm == "vanished":
        path.unlink()
    for shortcut in tmp_path.glob(".owl-index/*.shortcut"):
        shortcut.unlink()
    recording.seen()
    with build(tmp_path, recording) as index:
        assert recording.seen() == ["s-0.tar"]
        assert rows_of(index) == [f"row of {at:04d}".encode() for at in range(6)]
    assert path.read_bytes() == raw


FILL_DISK = """
import resource, sys
from pathlib import Path
from owl_stream.errors import ConfigError
from owl_stream.shards import rows
from tests.shards.test_rows import build
rows._IN_MEMORY_BYTES = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    build(Path(sys.argv[1]))
except ConfigError as exc:
    print(exc)
"""


@pytest.mark.parametrize("in_memory", [1 << 20, 8])
def test_fault_53_a_full_disk_leaves_no_half_of_a_row_table(tmp_path: Path, in_memory: int) -> None:
    """A typed error with the remedy, whether rows wait in memory or on disk, and the next build is right."""
    write_shard(tmp_path / "s-0.tar", [(f"{at:04d}" + "k" * 90, {"txt": b"x"}) for at in range(600)])
    # Room for the two tables, of 28 bytes a sample, and not for rows of a hundred, not even while they are gathered.
    command = [sys.executable, "-c", FILL_DISK, str(tmp_path), "20000", str(in_memory)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRON)
    assert "free space there, or choose a writable directory with --index-dir" in run.stdout
    assert not [path for path in index_files(tmp_path) if path.suffix in (".tmp", ".rows")]
    assert any(path.suffix == ".scan" for path in index_files(tmp_path)) == (in_memory > 8)
    with build(tmp_path) as index:
        assert rows_of(index)[59] == b"row of 0059" + b"k" * 90


KILLED = """
import os, signal, sys
from pathlib import Path
from owl_stream.shards import rows
from tests.shards import measures, test_rows
rows._IN_MEMORY_BYTES = 8
kept = measures.key_kept()
def dying():
    def measure(sample):
        if sample.key == "0004":
            os.kill(os.getpid(), signal.SIGKILL)
        return kept(sample)
    return measure
test_rows.build(Path(sys.argv[1]), dying)
"""


def test_indexing_that_is_killed_while_it_scans_leaves_nothing_behind(tmp_path: Path) -> None:
    """What it had gathered has no name, so the kernel takes it back."""
    one_shard(tmp_path)
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, env=ENVIRON)
    assert run.returncode == -signal.SIGKILL
    assert list((tmp_path / ".owl-index").iterdir()) == []
