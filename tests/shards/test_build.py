"""Building an index: what is read, what is reused, what is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owl_stream.errors import (
    ConfigError,
    DataChangedError,
    DataError,
    ReadError,
    SampleError,
    ShardError,
    WorkerError,
)
from owl_stream.shards import Index, Measure, MeasureFactory, Progress, build_index, find_shards, read_sample, read_span
from owl_stream.shards.build import _interrupts_held as interrupts_held
from tests.shards.measures import Recording, conversations, crashing, even_only, members, unmade
from tests.support.damage import cut, member, member_offsets, overwrite, write
from tests.support.patience import PATIENCE_S
from tests.support.tars import write_shard


def shards_in(base: Path, count: int = 3, each: int = 4) -> None:
    """s-0.tar, s-1.tar, ...: keys go on from shard to shard; every third sample has an image."""
    for number in range(count):
        samples = []
        for at in range(number * each, (number + 1) * each):
            image = {"0.jpg": b"x" * (100 + at)} if at % 3 == 0 else {}
            samples.append((f"{at:04d}", {**image, "json": b"{}"}))
        write_shard(base / f"s-{number}.tar", samples)


def build(
    base: Path,
    measure: MeasureFactory = members,
    recipe: str = "r",
    index_dir: Path | None = None,
    *,
    pattern: str = "s-*.tar",
    processes: int = 0,
    fail: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Index:
    """An index of the shards in a directory."""
    return build_index(
        find_shards([pattern], base),
        measure,
        recipe,
        index_dir,
        processes=processes,
        on_bad_sample="fail" if fail else "mask",
        progress=progress,
    )


def keys(index: Index) -> list[str]:
    """All keys, by id."""
    return index.keys(np.arange(index.samples))


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    """Tells which shards were read."""
    (tmp_path / "seen").mkdir()
    return Recording(tmp_path / "seen")


@pytest.mark.parametrize("processes", [0, 2])
def test_processes_change_nothing_but_time(tmp_path: Path, processes: int) -> None:
    """The same index, digests included, from one process or several."""
    shards_in(tmp_path)
    with build(tmp_path, index_dir=tmp_path / f"i{processes}", processes=processes) as index:
        assert keys(index) == [f"{at:04d}" for at in range(12)]
        assert index.costs(np.arange(12)).units.tolist() == [1, 0, 0] * 4
        with build(tmp_path, index_dir=tmp_path / "other") as inline:
            assert (index.manifest_digest, index.cost_digest) == (inline.manifest_digest, inline.cost_digest)


def test_a_second_build_reads_nothing(tmp_path: Path, recording: Recording) -> None:
    """While sizes and times match; then exactly the shard that changed is read."""
    shards_in(tmp_path)
    progress: list[Progress] = []
    with build(tmp_path, recording) as first:
        assert recording.seen() == ["s-0.tar", "s-1.tar", "s-2.tar"]
        with build(tmp_path, recording, progress=progress.append) as again:
            assert recording.seen() == []
            assert progress == []
            assert again.manifest_digest == first.manifest_digest
    os.utime(tmp_path / "s-1.tar", ns=(0, 5))
    with build(tmp_path, recording) as touched:
        assert recording.seen() == ["s-1.tar"]
        assert touched.manifest_digest == first.manifest_digest


def test_added_shards_extend_the_index(tmp_path: Path, recording: Recording) -> None:
    """Old shards are not read again, though their names change with the directory they share."""
    shards_in(tmp_path / "a", count=2)
    with build(tmp_path / "a", recording) as small:
        recording.seen()
    shards_in(tmp_path / "b", count=1)
    with build(tmp_path, recording, pattern="{a,b}/*.tar") as large:
        assert recording.seen() == ["b_s-0.tar"]
        assert [shard.name for shard in large.shards] == ["a/s-0.tar", "a/s-1.tar", "b/s-0.tar"]
        assert (small.samples, large.samples) == (8, 12)
        assert small.manifest_digest != large.manifest_digest


def test_another_recipe_keeps_the_first_ones_tables(tmp_path: Path, recording: Recording) -> None:
    """Each recipe's costs are measured once; going back reads nothing."""
    shards_in(tmp_path)
    with build(tmp_path, recording, "one"), build(tmp_path, even_only, "two") as two:
        assert two.samples == 6
        assert two.quarantined == 6
    recording.seen()
    with build(tmp_path, recording, "one") as one, build(tmp_path, recording, "two") as again:
        assert recording.seen() == []
        assert one.samples == 12
        assert keys(again) == ["0000", "0002", "0004", "0006", "0008", "0010"]


def test_digests_are_of_content_not_of_names_places_or_times(tmp_path: Path) -> None:
    """A renamed copy elsewhere is the same manifest; one changed byte is another."""
    shards_in(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for number in range(3):
        data = (tmp_path / f"a/s-{number}.tar").read_bytes()
        (tmp_path / f"b/s-x{number}.tar").write_bytes(data)
    with build(tmp_path / "a") as one, build(tmp_path / "b") as two:
        assert one.manifest_digest == two.manifest_digest
        assert one.cost_digest == two.cost_digest
        assert len(one.manifest_digest) == 32
        _, offset, _ = member_offsets(tmp_path / "b/s-x1.tar")["0006.0.jpg"]
        overwrite(tmp_path / "b/s-x1.tar", offset, b"y")
        with build(tmp_path / "b") as changed:
            assert changed.manifest_digest != one.manifest_digest
            assert changed.cost_digest == one.cost_digest


def test_equal_base_names_do_not_clash_in_one_index_dir(tmp_path: Path, recording: Recording) -> None:
    """Two data sets with the same file names share an index directory."""
    shards_in(tmp_path / "a", count=1)
    shards_in(tmp_path / "b", count=1, each=7)
    place = tmp_path / "index"
    with build(tmp_path / "a", recording, index_dir=place) as a, build(tmp_path / "b", recording, index_dir=place) as b:
        assert (a.samples, b.samples) == (4, 7)
    recording.seen()
    with build(tmp_path / "a", recording, index_dir=place) as a, build(tmp_path / "b", recording, index_dir=place) as b:
        assert (a.samples, b.samples) == (4, 7)
    assert recording.seen() == []
    assert not (tmp_path / "a/.owl-index").exists()


def test_tables_beside_the_shards_move_with_them(tmp_path: Path, recording: Recording) -> None:
    """A data set may be moved or mounted elsewhere without being read again."""
    shards_in(tmp_path / "a")
    build(tmp_path / "a", recording).close()
    recording.seen()
    (tmp_path / "a").rename(tmp_path / "moved")
    build(tmp_path / "moved", recording).close()
    assert recording.seen() == []


def index_files(base: Path) -> list[Path]:
    """Everything under `.owl-index`."""
    return sorted((base / ".owl-index").iterdir())


def have_read(path: Path) -> None:
    """See to it that the next build reads this file: a shortcut makes it read no tables."""
    if path.suffix in (".scan", ".cost"):
        for shortcut in path.parent.glob("*.shortcut"):
            shortcut.unlink()


@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated", "flipped", "longer", "swapped"])
@pytest.mark.parametrize("suffix", [".scan", ".cost", ".columns", ".shortcut"])
def test_fault_41_damaged_index_files_are_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, suffix: str
) -> None:
    """Whatever happened to a file, the index is as before, and the log says so once."""
    shards_in(tmp_path)
    with build(tmp_path) as index:
        before = index.manifest_digest, index.cost_digest, keys(index), index.costs(np.arange(12)).text_tokens.tolist()
    files = [path for path in index_files(tmp_path) if path.suffix == suffix]
    have_read(files[0])
    raw = files[0].read_bytes()
    files[0].write_bytes(
        {
            "garbage": bytes(range(256)) * 8,
            "empty": b"",
            "truncated": raw[:-9],
            "flipped": raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :],
            "longer": raw + b"\0",
            "swapped": files[-1].read_bytes() if len(files) > 1 else raw[::-1],
        }[damage]
    )
    with build(tmp_path) as index:
        after = index.manifest_digest, index.cost_digest, keys(index), index.costs(np.arange(12)).text_tokens.tolist()
    assert after == before
    if not (damage == "swapped" and suffix in (".scan", ".cost")):
        # A whole table of another shard is not damaged, only not this shard's.
        assert len([record for record in caplog.records if "it is made again" in record.message]) == 1


def test_fault_41_every_flipped_byte_of_a_table_is_noticed(tmp_path: Path) -> None:
    """Header, rows, findings, checksum."""
    shards_in(tmp_path, count=1)
    with build(tmp_path, even_only) as index:
        before = index.manifest_digest, index.cost_digest, index.quarantined
    for path in index_files(tmp_path):
        raw = path.read_bytes()
        for at in range(0, len(raw), 7):
            have_read(path)
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
            with build(tmp_path, even_only) as index:
                assert (index.manifest_digest, index.cost_digest, index.quarantined) == before
                assert keys(index) == ["0000", "0002"]


def test_a_complete_index_opens_without_reading_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All it needs is in the columns: a start reads the tables' last bytes and does not notice the others."""
    shards_in(tmp_path)
    build(tmp_path).close()
    for path in index_files(tmp_path):
        if path.suffix in (".scan", ".cost"):
            raw = path.read_bytes()
            path.write_bytes(bytes(len(raw) - 8) + raw[-8:])
    with build(tmp_path) as index:
        assert keys(index) == [f"{at:04d}" for at in range(12)]
    assert not caplog.records


def test_a_table_of_an_older_shard_is_not_used(tmp_path: Path) -> None:
    """Costs that were measured before the shard was rewritten, in size and time alike, belong to another scan."""
    write_shard(tmp_path / "s-0.tar", [("0001", {"0.jpg": b"n", "json": b"{}"})])
    build(tmp_path, recipe="one").close()
    times = (tmp_path / "s-0.tar").stat()
    write_shard(tmp_path / "s-0.tar", [("0002", {"0.txt": b"n", "json": b"{}"})])
    os.utime(tmp_path / "s-0.tar", ns=(times.st_atime_ns, times.st_mtime_ns))
    build(tmp_path, recipe="two").close()
    with build(tmp_path, recipe="one") as index:
        assert keys(index) == ["0002"]
        assert index.costs(np.array([0])).units.tolist() == [0]


def test_fault_40_a_rewrite_of_the_same_size_and_time_is_found_when_read(tmp_path: Path) -> None:
    """The index cannot know, but no sample of the new bytes passes for one of the old."""
    shards_in(tmp_path, count=1)
    path = tmp_path / "s-0.tar"
    with build(tmp_path) as index:
        spans = index.spans(np.array([3]))
        times = path.stat()
        overwrite(path, int(spans.offset[0]) + 600, b"?")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(DataChangedError):
            read_span(path, int(spans.offset[0]), int(spans.length[0]), int(spans.digest[0]))


@pytest.mark.parametrize("beside", [True, False])
def test_fault_53_an_index_that_cannot_be_written_names_the_remedy(
    tmp_path: Path, recording: Recording, beside: bool
) -> None:
    """Said before a single shard is read."""
    shards_in(tmp_path)
    (tmp_path / ".owl-index").write_text("a file where the directory should be")
    with pytest.raises(ConfigError, match=r"choose a writable directory with --index-dir"):
        build(tmp_path, recording, index_dir=None if beside else tmp_path / ".owl-index/i")
    assert recording.seen() == []


ENVIRON = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

FILL_DISK = """
import resource, sys
from pathlib import Path
from owl_stream.errors import ConfigError
from tests.shards.test_build import build
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    build(Path(sys.argv[1]))
except ConfigError as exc:
    print(exc)
"""


@pytest.mark.parametrize("room", [0, 50, 200, 500])
def test_fault_53_a_full_disk_leaves_nothing_half_written(tmp_path: Path, room: int) -> None:
    """The kernel refuses to let files grow: a typed error with the remedy, and the next build is right."""
    shards_in(tmp_path)
    command = [sys.executable, "-c", FILL_DISK, str(tmp_path), str(room)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRON)
    assert "free space there, or choose a writable directory with --index-dir" in run.stdout
    assert not [path for path in index_files(tmp_path) if path.suffix == ".tmp"]
    with build(tmp_path) as index:
        assert index.samples == 12


def test_a_complete_index_needs_no_writable_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recording: Recording
) -> None:
    """Data sets are often mounted read-only after they were indexed."""
    shards_in(tmp_path)
    build(tmp_path, recording).close()
    recording.seen()
    opened: list[int] = []
    real = os.open

    def watched(path: str, flags: int, *rest: int, **more: int) -> int:
        opened.append(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    build(tmp_path, recording).close()
    assert opened
    assert not any(opened)


@pytest.mark.parametrize("processes", [0, 2])
def test_fault_38_a_shard_that_vanishes_stops_indexing(tmp_path: Path, processes: int) -> None:
    """What it held cannot be quarantined, so no index is made of the others."""
    shards_in(tmp_path)
    found = find_shards(["s-*.tar"], tmp_path)
    (tmp_path / "s-1.tar").unlink()
    with pytest.raises(ShardError, match=r"shard s-1\.tar @ 0: no such file"):
        build_index(found, members, "r", None, processes=processes, on_bad_sample="mask")


def test_fault_54_an_io_error_stops_indexing_and_quarantines_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying again later gives the whole index."""
    shards_in(tmp_path)
    pread = os.pread

    def fail(file: int, nbytes: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{file}").endswith("s-1.tar"):
            raise OSError(5, "Input/output error")
        return pread(file, nbytes, offset)

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(ReadError, match=r"shard s-1\.tar @ 0: Input/output error") as caught:
        build(tmp_path)
    assert caught.value.retryable
    monkeypatch.undo()
    with build(tmp_path) as index:
        assert (index.samples, index.quarantined) == (12, 0)


def damaged(base: Path) -> None:
    """Three shards: sound, cut in its second sample, and empty; the sound one has an interleaved key."""
    write(base / "s-0.tar", *(member(f"{name}.json", b"{}") for name in ("1", "0", "1", "2")))
    shards_in(base / "x", count=1)
    path = (base / "x/s-0.tar").rename(base / "s-1.tar")
    cut(path, member_offsets(path)["0001.json"][1] + 1)
    (base / "s-2.tar").write_bytes(b"")


def test_the_quarantine_names_everything_and_survives(tmp_path: Path) -> None:
    """By shard and offset, findings of shards and recipe together, the same from the files of an earlier run."""
    damaged(tmp_path)
    for _ in range(2):
        with build(tmp_path, even_only) as index:
            findings = list(index.quarantine())
            assert [(f.shard, f.key, f.reason) for f in findings] == [
                ("s-0.tar", "1", "key_interleaved"),
                ("s-0.tar", "1", "key_interleaved"),
                ("s-1.tar", "0001", "tar_cut_in_data"),
                ("s-1.tar", "", "tar_cut_in_data"),
                ("s-2.tar", "", "shard_empty"),
            ]
            assert index.quarantined == 5
            assert keys(index) == ["0", "2", "0000"]
            assert index.pool_counts_by_shard("all").tolist() == [2, 1, 0]


def test_on_bad_sample_fail_raises_the_first_and_counts_all(tmp_path: Path) -> None:
    """A sample's error or a shard's, whichever comes first; the tables are kept for the next run."""
    damaged(tmp_path)
    with pytest.raises(SampleError, match=r"first of 5 findings: 2 x key_interleaved, 2 x tar_cut_in_data") as caught:
        build(tmp_path, fail=True)
    assert (caught.value.shard, caught.value.key, caught.value.reason) == ("s-0.tar", "1", "key_interleaved")
    with pytest.raises(ShardError, match="first of 1 findings") as of_shard:
        build_index(
            [*find_shards(["s-2.tar"], tmp_path), *find_shards(["x-0.tar"], sound(tmp_path))],
            members,
            "r",
            None,
            processes=0,
            on_bad_sample="fail",
        )
    assert of_shard.value.reason == "shard_empty"


def sound(base: Path) -> Path:
    """A directory with one good shard, x-0.tar."""
    write_shard(base / "sound/x-0.tar", [("a", {"json": b"{}"})])
    return base / "sound"


def test_on_bad_sample_fail_accepts_good_data(tmp_path: Path) -> None:
    """Nothing bad, nothing raised."""
    shards_in(tmp_path)
    build(tmp_path, fail=True).close()


@pytest.mark.parametrize("processes", [0, 2])
def test_fault_79_every_sample_bad_stops_with_a_count(tmp_path: Path, processes: int) -> None:
    """By reason, most frequent first, with an example of that and where all are listed."""
    shards_in(tmp_path)
    (tmp_path / "s-3.tar").write_bytes(b"")
    counts = "not one good sample in 4 shards: 12 x record_field, 1 x shard_empty"
    example = r"for example: shard s-0\.tar, sample \w+, member \w+\.json @ 1536: .*; `owl-stream check` lists them all"
    with pytest.raises(DataError, match=f"{counts}; {example}"):
        build(tmp_path, conversations, processes=processes)


def test_shards_without_a_single_good_sample_say_why(tmp_path: Path) -> None:
    """One shard of broken records, one that is no tar at all, one without a member: each with its remedy."""
    write_shard(tmp_path / "json-0.tar", [("a", {"json": b"{"})])
    with pytest.raises(DataError, match=r"in 1 shard: 1 x json_malformed; for example: shard .*, member a\.json @ 512"):
        build(tmp_path, conversations, pattern="json-0.tar")
    (tmp_path / "text-0.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"in 1 shard: 1 x \w+; for example: .*text-0\.tar.*`owl-stream check`"):
        build(tmp_path, conversations, pattern="text-0.tar")
    write_shard(tmp_path / "none-0.tar", [])
    with pytest.raises(DataError, match=r"1 shard.*none-0\.tar"):
        build(tmp_path, conversations, pattern="none-0.tar")


def test_progress_goes_from_nothing_to_everything(tmp_path: Path) -> None:
    """Bytes and samples never go back; the totals are those of the shards that are read."""
    shards_in(tmp_path)
    seen: list[Progress] = []
    build(tmp_path, pattern="s-0.tar").close()
    build(tmp_path, processes=2, progress=seen.append).close()
    total = sum((tmp_path / f"s-{number}.tar").stat().st_size for number in (1, 2))
    assert seen[0] == Progress(0, total, 0, 0, 2)
    assert seen[-1] == Progress(total, total, 8, 2, 2)
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)


def test_errors_of_the_factory_reach_the_caller(tmp_path: Path) -> None:
    """A tokenizer that is not found is that error, not a broken pool."""
    shards_in(tmp_path)
    for processes in (0, 2):
        with pytest.raises(ConfigError, match=r"no such tokenizer: t\.json"):
            build(tmp_path, unmade, processes=processes)


def test_an_indexing_process_that_dies_is_said(tmp_path: Path) -> None:
    """It is no verdict on a sample; trying again is allowed."""
    shards_in(tmp_path)
    with pytest.raises(WorkerError, match="an indexing process died"):
        build(tmp_path, crashing, processes=1)


ORPHANS = """
import os, sys
from pathlib import Path
from tests.shards import test_build
if __name__ == "__main__":
    test_build.build(Path(sys.argv[1]), test_build.Blocking(Path(sys.argv[2])), processes=2)
"""


class Blocking:
    """A factory whose measure says its process id and then waits for ever."""

    def __init__(self, fifo: Path) -> None:
        self.fifo = fifo

    def __call__(self) -> Measure:
        """The measure."""
        with self.fifo.open("w") as fifo:
            fifo.write(f"{os.getpid()}\n")
        while True:
            signal.pause()


def test_indexing_processes_end_with_their_parent(tmp_path: Path) -> None:
    """After a SIGKILL of the server nobody goes on reading shards: the kernel closes the pipe they hold open."""
    shards_in(tmp_path)
    started, alive = tmp_path / "started", os.pipe()
    os.mkfifo(started)
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(started)],
        env=ENVIRON,
        stdout=subprocess.DEVNULL,
        stderr=alive[1],
    )
    os.close(alive[1])
    with started.open() as fifo:
        pid = int(fifo.readline())
    assert pid != parent.pid
    parent.kill()
    parent.wait()
    # Every process of the family has the write end as its stderr: the read ends only when all are gone.
    with os.fdopen(alive[0], "rb") as end:
        end.read()


def test_no_shards_are_refused() -> None:
    """An index of nothing is a mistake."""
    with pytest.raises(ConfigError, match="no shards"):
        build_index([], members, "r", None, processes=0, on_bad_sample="mask")


def test_real_shards(shared_data: Path, tmp_path: Path) -> None:
    """145 real samples: all good, and each reads back under its own key with a record that parses."""
    shards = find_shards(["real"], shared_data)
    with build_index(shards, conversations, "r", tmp_path, processes=2, on_bad_sample="fail") as index:
        assert (index.samples, index.quarantined, len(index.shards)) == (145, 0, 5)
        assert index.pool_size("image") + index.pool_size("text") == 145
        spans, names = index.spans(np.arange(145)), keys(index)
        assert names == [f"{at:06d}" for at in range(145)]
        for at in range(145):
            shard, offset = shards[int(spans.shard[at])], int(spans.offset[at])
            span = read_span(shard.path, offset, int(spans.length[at]), int(spans.digest[at]))
            sample = read_sample(shard.name, span, offset)
            assert sample.key == names[at]
            document = next(m for m in sample.members if m.ext == "json")
            crops = sum(turn["content"].count("<|image|>") for turn in json.loads(bytes(document.data))["messages"])
            assert index.costs(np.array([at])).units.tolist() == [crops]


def test_what_a_killed_process_was_writing_is_removed_once_it_is_old(tmp_path: Path) -> None:
    """A day later it is nobody's. What is younger may still be written, and files of others are theirs."""
    shards_in(tmp_path, count=1)
    place = tmp_path / ".owl-index"
    place.mkdir()
    left = {"old": f".{'a1' * 8}.tmp", "young": f".{'b2' * 8}.tmp", "foreign": ".somebody.tmp"}
    for name, file in left.items():
        (place / file).write_bytes(b"half a row table")
        if name != "young":
            os.utime(place / file, (time.time() - 100_000,) * 2)
    build(tmp_path).close()
    assert [name for name, file in left.items() if (place / file).exists()] == ["young", "foreign"]


def test_an_interrupt_parts_nobody_from_a_process_that_is_being_started() -> None:
    """Another thread takes the signal, as a library's may: it is seen when the process has all that it waits for."""
    stop, seen = threading.Event(), []
    told, taken = socket.socketpair()
    told.setblocking(False)
    taken.settimeout(PATIENCE_S)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs this in the background ignores it
    other = threading.Thread(target=stop.wait)
    other.start()

    def interrupted() -> None:
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            assert taken.recv(1) == bytes([signal.SIGINT])  # Python's own handler, in C, has run
            seen.append("the block went on")

    before = signal.set_wakeup_fd(told.fileno())
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert seen
        with interrupts_held():
            pass
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGINT, handler)
        told.close()
        taken.close()
        stop.set()
        other.join()
