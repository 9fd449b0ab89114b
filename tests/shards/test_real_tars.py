"""Tars that the `tar` command writes, held against what it unpacks itself, against tarfile and against webdataset.

Faults 103, 104 and 105 of docs/faults.md.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from owl_stream.shards import Quarantined
from owl_stream.shards.tar import Entry, SpanTape, read_entry
from tests.shards.readers import Groups, ours, scanned, theirs

FORMATS = ("v7", "oldgnu", "gnu", "ustar", "posix")
HOLE = 64 << 10


def is_gnu_tar() -> bool:
    """Whether `tar` is GNU tar, whose options these tests use."""
    try:
        run = subprocess.run(["tar", "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return "GNU tar" in run.stdout


pytestmark = pytest.mark.skipif(not is_gnu_tar(), reason="`tar` is not GNU tar: its formats cannot be written here")


def tar(path: Path, tree: Path, *options: str, names: tuple[str | bytes, ...] = (".",)) -> Path:
    """The tree as `path`, its files in the order of their names."""
    command = ["tar", *options, "--sort=name", "-cf", path, "-C", tree, *names]
    subprocess.run(command, check=True, capture_output=True)
    return path


def plant(tree: Path, *keys: str) -> Path:
    """A pair of files for each key."""
    for key in keys:
        (tree / key).parent.mkdir(parents=True, exist_ok=True)
        (tree / f"{key}.jpg").write_bytes(key.encode() * 200)
        (tree / f"{key}.json").write_bytes(b'{"key": 1}')
    return tree


def unpacked(path: Path, into: Path) -> dict[str, bytes]:
    """Name -> content of the files that GNU tar itself unpacks."""
    into.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", into], check=True, capture_output=True)
    return {str(file.relative_to(into)): file.read_bytes() for file in into.rglob("*") if file.is_file()}


def files(groups: Groups) -> dict[str, bytes]:
    """The same of samples."""
    return {f"{key}.{ext}".removeprefix("./"): data for key, members in groups for ext, data in members.items()}


def entries(path: Path) -> list[Entry]:
    """Every member."""
    data = path.read_bytes()
    tape, at, found = SpanTape(data, 0), 0, list[Entry]()
    while (entry := read_entry(tape, at)) is not None:
        found.append(entry)
        at = entry.next
    return found


def named(findings: tuple[Quarantined, ...]) -> list[tuple[str, str, str]]:
    """(key, member, reason) of each."""
    return [(finding.key, finding.member, finding.reason) for finding in findings]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_files_that_were_packed(tmp_path: Path, form: str) -> None:
    """Folders, UTF-8 names, and names as long as the format can hold: all of GNU tar's, tarfile's and webdataset's."""
    deep = "/".join(["a" * 40] * (1 if form == "v7" else 3 if form == "ustar" else 9))
    tree = plant(tmp_path / "tree", "0000", "train/0001", "d.v1/0002", "ключ/日本-é", f"{deep}/0003")
    path = tar(tmp_path / "t.tar", tree, f"--format={form}")
    assert files(ours(path)) == unpacked(path, tmp_path / "out")
    assert ours(path) == theirs(path)
    with tarfile.open(path) as theirs_too:
        assert [(entry.name.rstrip("/"), entry.start, entry.offset) for entry in entries(path)] == [
            (info.name, info.offset, info.offset_data) for info in theirs_too
        ]


@pytest.mark.parametrize("form", ["oldgnu", "gnu", "posix"])
def test_incremental_archives_are_read(tmp_path: Path, form: str) -> None:
    """Their folders have data, and the old forms keep times where POSIX has a prefix, which tarfile takes for one."""
    tree = plant(tmp_path / "tree", "0000", "train/0001")
    path = tar(tmp_path / "t.tar", tree, f"--format={form}", "--incremental")
    assert files(ours(path)) == unpacked(path, tmp_path / "out")


@pytest.mark.parametrize("holes", [1, 3, 60, 2500])
@pytest.mark.parametrize("form", ["gnu", "oldgnu", "posix 0.0", "posix 0.1", "posix 1.0"])
def test_fault_49_a_sparse_member_loses_its_own_sample_alone(tmp_path: Path, form: str, holes: int) -> None:
    """In each of GNU tar's forms, with maps that need no, some and many blocks; the name is the one it had."""
    tree = plant(tmp_path / "tree", "0000", "0001", "0002")
    hole = HOLE if holes < 1000 else 8 << 10
    with (tree / "0001.jpg").open("wb") as file:
        for number in range(holes):
            file.seek(number * hole + hole // 2)
            file.write(b"data")
        file.truncate(holes * hole + hole)
    status = (tree / "0001.jpg").stat()
    if status.st_blocks * 512 >= status.st_size:
        pytest.skip("this file system keeps no holes: no sparse file can be made")
    name, _, version = form.partition(" ")
    options = (f"--sparse-version={version}",) if version else ()
    path = tar(tmp_path / "t.tar", tree, f"--format={name}", "--sparse", *options)
    groups, findings = scanned(path)
    assert named(findings) == [("./0001", "./0001.jpg", "member_type")]
    assert "write the shard without --sparse" in findings[0].detail
    expected = unpacked(path, tmp_path / "out")
    assert files(groups) == {name: data for name, data in expected.items() if not name.startswith("0001")}
    with tarfile.open(path) as theirs_too:
        assert [entry.start for entry in entries(path)] == [info.offset for info in theirs_too]
        assert [entry.name.rstrip("/") for entry in entries(path)] == [info.name for info in theirs_too]


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_file_that_goes_on_in_the_next_volume_is_named(tmp_path: Path, form: str) -> None:
    """Its first part is cut by the end, the second has a header of its own; all whole samples of both are good."""
    tree = plant(tmp_path / "tree", "0000", "0002")
    (tree / "0001.bin").write_bytes(os.urandom(20_000))
    volumes = [f"-f{tmp_path / name}" for name in ("1.tar", "2.tar", "3.tar")]
    names = ("0000.jpg", "0000.json", "0001.bin", "0002.jpg", "0002.json")
    command = ["tar", "-cM", "-L12", f"--format={form}", *volumes, "-C", str(tree), *names]
    subprocess.run(command, check=True, capture_output=True)
    groups, findings = scanned(tmp_path / "1.tar")
    assert [key for key, _ in groups] == ["0000"]
    assert [(f.key, f.reason) for f in findings] == [("0001", "tar_cut_in_data"), ("", "tar_cut_in_data")]
    groups, findings = scanned(tmp_path / "2.tar")
    assert [key for key, _ in groups] == ["0002"]
    assert named(findings) == [("0001", "0001.bin", "member_type")]
    assert "multi-volume" in findings[0].detail


@pytest.mark.parametrize("form", FORMATS)
def test_fault_49_links_and_pipes_lose_their_own_sample_alone(tmp_path: Path, form: str) -> None:
    """Hard links, symbolic links and named pipes between good samples."""
    tree = plant(tmp_path / "tree", "0000", "0002", "0004", "0006")
    os.link(tree / "0000.jpg", tree / "0001.jpg")
    (tree / "0003.jpg").symlink_to("0002.jpg")
    os.mkfifo(tree / "0005.jpg")
    options = (f"--format={form}",)
    skipped = 0 if form != "v7" else 1  # v7 has no pipes
    path = tar(tmp_path / "t.tar", tree, *options, *(["--exclude=0005.jpg"] if skipped else []))
    groups, findings = scanned(path)
    assert [key for key, _ in groups] == ["./0000", "./0002", "./0004", "./0006"]
    bad = ["./0001", "./0003", "./0005"][: 3 - skipped]
    assert named(findings) == [(key, f"{key}.jpg", "member_type") for key in bad]


@pytest.mark.parametrize("form", FORMATS)
def test_names_in_latin_1_are_named_and_spoil_no_other(tmp_path: Path, form: str) -> None:
    """Nobody can say which letters they are; PAX keeps the bytes as they are."""
    tree = plant(tmp_path / "tree", "0000", "0002")
    name = os.fsencode(tree) + b"/caf\xe9.jpg"
    try:
        with open(name, "wb") as file:
            file.write(b"latin-1")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    groups, findings = scanned(tar(tmp_path / "t.tar", tree, f"--format={form}"))
    assert [key for key, _ in groups] == ["./0000", "./0002"]
    assert [(f.key, f.reason) for f in findings] == [("./caf\\udce9", "member_name")]
    assert "not UTF-8 (perhaps latin-1); rename it" in findings[0].detail


@pytest.mark.parametrize("form", FORMATS)
def test_what_macos_leaves_between_the_files_changes_nothing(tmp_path: Path, form: str) -> None:
    """The order of its own tar: `._0.jpg` right before `0.jpg`; webdataset would split every pair."""
    tree = plant(tmp_path / "tree", "train/0000", "train/0001")
    clean = ours(tar(tmp_path / "clean.tar", tree, f"--format={form}"))
    for file in list((tree / "train").iterdir()):
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    (tree / "train" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tree / "train" / "__MACOSX").mkdir()
    (tree / "train" / "__MACOSX" / "0.jpg").write_bytes(b"x")
    names = ("._0000.jpg", "0000.jpg", "._0000.json", "0000.json", ".DS_Store", "__MACOSX")
    names += ("0001.jpg", "._0001.jpg", "0001.json", "._0001.json")
    path = tar(tmp_path / "t.tar", tree, f"--format={form}", names=tuple(f"./train/{name}" for name in names))
    assert ours(path) == clean
    assert len(theirs(path)) > len(clean)
