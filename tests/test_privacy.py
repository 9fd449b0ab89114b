"""What is written from shards, records and pictures may be read by nobody who may not read those."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from owl_stream.assemble.cache import CacheSettings, PixelCache
from owl_stream.pack import PackSettings, pack
from owl_stream.privacy import PRIVATE, create, make_directory, readers_of, tighten
from owl_stream.shards import build_index, find_shards
from owl_stream.shards.tables import replaced
from tests.pack.foreign import llava, write_array, write_captions, write_pictures
from tests.shards.measures import members
from tests.support.datasets import small_dataset
from tests.support.http import get
from tests.support.server import ROOT, ServerProcess
from tests.support.tars import write_shard

MODES, UMASKS = [0o600, 0o640, 0o644, 0o666], [0o000, 0o027, 0o077]
STRANGERS = 54321
"""A group that nobody is in."""


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """The umask of this process, and of those that it starts meanwhile."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: Path) -> int:
    """Its permission bits, without those of the group's own inheritance."""
    return path.stat().st_mode & 0o777


def modes(directory: Path) -> dict[str, int]:
    """The modes of all files and directories below a directory."""
    return {str(path.relative_to(directory)): mode_of(path) for path in directory.rglob("*")}


def expected(of: int, mask: int = 0) -> tuple[int, int]:
    """Modes of a file and a directory that are made of something with that mode."""
    read = of & 0o044
    return (0o600 | read) & ~mask, (0o700 | read | read >> 2) & ~mask


def command(*arguments: str, mask: int) -> None:
    """A command of ours, with that umask."""
    subprocess.run(
        [sys.executable, "-m", "owl_stream.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        umask=mask,
        check=True,
        capture_output=True,
    )


def shards_of(directory: Path, *shard_modes: int) -> list[Path]:
    """Shards with those modes in a directory that everyone may enter."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    paths = []
    for number, mode in enumerate(shard_modes):
        paths.append(directory / f"s-{number}.tar")
        write_shard(paths[-1], [(f"{number:02}", {"json": b"{}", "jpg": b"x" * 100})])
        paths[-1].chmod(mode)
    return paths


def index(directory: Path, index_dir: Path | None = None, pattern: str = "s-*.tar", mask: int = 0) -> Path:
    """Index the shards of a directory; returns where the index lies."""
    with umask(mask):
        found = find_shards([pattern], directory)
        build_index(found, members, "r", index_dir, processes=0, on_bad_sample="mask").close()
    return index_dir or directory / ".owl-index"


@pytest.mark.parametrize("mask", UMASKS)
@pytest.mark.parametrize("mode", MODES)
def test_fault_139_an_index_is_as_private_as_its_shards(tmp_path: Path, mode: int, mask: int) -> None:
    """Whatever the umask; the directory too."""
    shards_of(tmp_path, mode, mode)
    place = index(tmp_path, mask=mask)
    file, directory = expected(mode, mask)
    assert mode_of(place) == directory
    assert set(modes(place).values()) == {file}


@pytest.mark.parametrize(("mode", "mask"), [(0o640, 0o000), (0o644, 0o077)])
def test_fault_139_so_is_one_that_several_processes_make(tmp_path: Path, mode: int, mask: int) -> None:
    """The command's own files and directory, row tables included."""
    config = small_dataset(tmp_path / "data", samples=8)
    for shard in (tmp_path / "data").glob("*.tar"):
        shard.chmod(mode)
    file, directory = expected(mode, mask)
    command("index", "--config", str(config), "--processes", "2", mask=mask)
    assert mode_of(tmp_path / "data" / ".owl-index") == directory
    found = modes(tmp_path / "data" / ".owl-index")
    assert {Path(name).suffix for name in found} == {".scan", ".cost", ".rows", ".columns", ".shortcut"}
    assert set(found.values()) == {file}


def test_fault_139_a_directory_elsewhere_is_made_as_private(tmp_path: Path) -> None:
    """With all that had to be made above it."""
    tmp_path.chmod(0o755)
    for mode in MODES:
        place = tmp_path / f"made-{mode:o}" / "for" / "it"
        shards_of(tmp_path / "data", mode)
        index(tmp_path / "data", place)
        file, directory = expected(mode)
        assert {mode_of(made) for made in (place, place.parent, place.parent.parent)} == {directory}
        assert set(modes(place).values()) == {file}


def test_fault_139_a_directory_of_the_users_keeps_its_mode(tmp_path: Path) -> None:
    """The files in it are private all the same."""
    shards_of(tmp_path / "data", 0o600)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o775)
    index(tmp_path / "data", tmp_path / "shared")
    assert mode_of(tmp_path / "shared") == 0o775
    assert set(modes(tmp_path / "shared").values()) == {0o600}


def test_fault_139_each_table_goes_with_its_shard_and_the_manifest_with_all(tmp_path: Path) -> None:
    """Shards that not all the same people may read."""
    shards_of(tmp_path, 0o644, 0o640, 0o604)
    place = index(tmp_path)
    found = modes(place)
    for number, mode in enumerate((0o644, 0o640, 0o604)):
        assert {found[name] for name in found if name.startswith(f"s-{number}.")} == {mode}
    assert {found[name] for name in found if name.startswith("manifest.")} == {0o600}
    assert mode_of(place) == 0o700


def test_fault_139_a_private_directory_keeps_its_shards_private_elsewhere_too(tmp_path: Path) -> None:
    """Shards that everyone could read, but for a directory above them; a link to them changes nothing."""
    private = tmp_path / "private"
    (shard,) = shards_of(private / "data", 0o644)
    private.chmod(0o700)
    assert set(modes(index(private / "data", tmp_path / "elsewhere")).values()) == {0o600}
    assert set(modes(index(private / "data")).values()) == {0o644}
    linked = tmp_path / "linked"
    linked.mkdir()
    linked.chmod(0o755)
    (linked / "s-0.tar").symlink_to(shard)
    assert set(modes(index(linked)).values()) == {0o600}


def test_fault_139_the_group_of_a_shard_is_not_swapped_for_another(tmp_path: Path) -> None:
    """Bits for a group are given where the file has that group; where everyone may read any group may."""
    for mode, own in ((0o640, 0o600), (0o604, 0o600), (0o644, 0o644)):
        (shard,) = shards_of(tmp_path / f"{mode:o}", mode)
        _give(shard, STRANGERS)
        assert set(modes(index(shard.parent)).values()) == {own}
    (shard,) = shards_of(tmp_path / "inherited", 0o640)
    _give(shard, STRANGERS)
    _give(shard.parent, STRANGERS)
    shard.parent.chmod(0o2755)
    place = index(shard.parent)
    assert set(modes(place).values()) == {0o640}
    assert {path.stat().st_gid for path in place.rglob("*")} == {STRANGERS}
    assert mode_of(place) == 0o750


def _give(path: Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
    except PermissionError:
        pytest.skip("only root may give files to any group")


def _opened_by_an_earlier_version(place: Path) -> None:
    for path in place.iterdir():
        path.chmod(0o644)
    place.chmod(0o755)


@pytest.mark.parametrize("named", [False, True])
def test_fault_139_an_index_of_an_earlier_version_is_closed(tmp_path: Path, named: bool) -> None:
    """It is tightened when it is used, files of other recipes and interrupted runs too; nothing is read anew."""
    shards_of(tmp_path / "data", 0o600, 0o600)
    place = index(tmp_path / "data", tmp_path / "named" if named else None)
    (next(place.glob("s-0*.cost"))).with_name(next(place.glob("s-0*.scan")).stem + ".0123456789abcdef.rows").touch()
    (place / ".0123456789abcdef.tmp").touch()
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    _opened_by_an_earlier_version(place)
    index(tmp_path / "data", place if named else None)
    assert set(modes(place).values()) == {0o600}
    assert mode_of(place) == (0o755 if named else 0o700)
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before


def test_fault_139_a_shard_that_became_private_takes_its_index_along(tmp_path: Path) -> None:
    """Shards of another data set in the same directory keep their files, and the way to them."""
    shards = shards_of(tmp_path, 0o644, 0o644)
    place = index(tmp_path, pattern="s-0.tar")
    theirs = set(modes(place))
    index(tmp_path, pattern="s-1.tar")
    shards[1].chmod(0o600)
    index(tmp_path, pattern="s-1.tar")
    found = modes(place)
    assert {found[name] for name in theirs} == {0o644}
    assert {found[name] for name in found if name.startswith("s-1")} == {0o600}
    assert sorted(found[name] for name in found if name.endswith(".columns")) == [0o600, 0o644]
    assert mode_of(place) == 0o755


def test_fault_139_no_file_is_open_to_others_before_it_is_whole(tmp_path: Path) -> None:
    """The mode is there before the first byte, and the umask takes away from it."""
    shards_of(tmp_path, 0o640)
    readers = readers_of([tmp_path / "s-0.tar"], tmp_path)
    for mask, mode in ((0, 0o640), (0o077, 0o600), (0o777, 0)):
        with umask(mask), replaced(tmp_path / f"file-{mask}", readers) as file:
            assert os.fstat(file).st_mode & 0o777 == mode
            assert os.fstat(file).st_size == 0


def test_fault_139_what_cannot_be_looked_at_makes_files_private(tmp_path: Path) -> None:
    """A source that is gone, and no source at all."""
    assert readers_of([tmp_path / "gone"], tmp_path) == readers_of([], tmp_path) == PRIVATE
    with umask(0):
        os.close(create(tmp_path / "file", PRIVATE))
        make_directory(tmp_path / "a" / "b", PRIVATE)
    assert modes(tmp_path) == {"file": 0o600, "a": 0o700, "a/b": 0o700}
    tighten(tmp_path / "gone", PRIVATE)
    for taken in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            make_directory(taken, PRIVATE)


def test_fault_139_cached_crops_are_as_private_as_their_shard(tmp_path: Path) -> None:
    """Of a real server's worker, in a private directory; what an earlier version left open is closed when read."""
    tmp_path.chmod(0o755)
    crops = tmp_path / "made" / "crops"
    config = small_dataset(tmp_path / "data", samples=8, server={"workers": 1, "cache": {"dir": str(crops)}})
    for number, mode in enumerate((0o640, 0o600)):
        (tmp_path / "data" / f"train-{number:05d}.tar").chmod(mode)
    with umask(0), ServerProcess(config) as server:
        for _ in range(2):
            assert get(server.url + "/v1/datasets/train/stream").status == 200
            files = list(crops.rglob("*.pixels"))
            assert sorted(mode_of(path) for path in files) == [0o600] * 3 + [0o640] * 3
            assert {mode_of(path) for path in (crops, *(path.parent for path in files))} == {0o700}
            for path in files:
                path.chmod(0o644)


def test_fault_139_a_cache_directory_of_the_users_keeps_its_mode(tmp_path: Path) -> None:
    """Its shelves are as open as it is, for the servers of others; files without a word about readers are private."""
    tmp_path.chmod(0o770)
    cache, crops = PixelCache(CacheSettings(tmp_path, 1 << 30)), {"pixel_values": np.zeros((1, 3, 4, 4), np.uint8)}
    with umask(0):
        cache.write(bytes(16), crops)
    (path,) = tmp_path.rglob("*.pixels")
    assert (mode_of(path), mode_of(path.parent), mode_of(tmp_path)) == (0o600, 0o770, 0o770)
    assert cache.read(bytes(16), crops)


@pytest.mark.parametrize(("mode", "mask"), [(0o600, 0), (0o640, 0), (0o644, 0o077)])
def test_fault_139_what_is_packed_is_as_private_as_records_and_pictures(tmp_path: Path, mode: int, mask: int) -> None:
    """Shards, journal, manifest and the list of bad inputs, and the directory; also of a run that goes on."""
    records = write_array(tmp_path / "x.json", llava(write_pictures(tmp_path, 4)))
    records.chmod(mode)
    out = tmp_path / "out"
    arguments = ("pack", str(records), "--out", str(out), "--shard-samples", "2")
    file, directory = expected(mode, mask)
    command(*arguments, mask=mask)
    assert mode_of(out) == directory
    assert len(modes(out)) == 6
    assert set(modes(out).values()) == {file}
    (out / "train.manifest.json.tmp").touch()  # of a run that was killed
    for path in out.iterdir():
        path.chmod(0o644)
    command(*arguments, mask=mask)
    assert [oct(found) for found in modes(out).values() if found & ~expected(mode)[0]] == []


def test_fault_139_a_packed_shard_goes_with_the_most_private_of_its_files(tmp_path: Path) -> None:
    """One picture, or one caption, that only its owner may read; shards without it stay open."""
    pictures = write_pictures(tmp_path, 4)
    records = write_array(tmp_path / "x.json", llava(pictures)[:4])
    for path in (*tmp_path.rglob("*.*"),):
        path.chmod(0o644)
    folder = write_captions(tmp_path / "captions", 2)
    for path in folder.rglob("*.*"):
        path.chmod(0o644)
    with umask(0):
        pack(PackSettings((records,), tmp_path / "open", shard_samples=1), workers=1)
        assert {mode_of(path) for path in (tmp_path / "open").iterdir()} == {0o644}
        (tmp_path / pictures[0]).chmod(0o600)
        pack(PackSettings((records,), tmp_path / "out", shard_samples=1), workers=1)
        assert sorted({mode_of(path) for path in (tmp_path / "out").glob("*.tar")}) == [0o600, 0o644]
        next(folder.rglob("*.txt")).chmod(0o600)
        pack(PackSettings((folder,), tmp_path / "captioned", shard_samples=1), workers=1)
        assert sorted({mode_of(path) for path in (tmp_path / "captioned").glob("*.tar")}) == [0o600, 0o644]
