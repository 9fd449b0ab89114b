"""Finding shards."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from owl_stream.errors import ConfigError, ReadError, ShardError
from owl_stream.shards import Shard, find_shards
from owl_stream.shards.source import open_shard


def touch(base: Path, *names: str) -> None:
    """Files of one block."""
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(b"x" * 512)


def names(shards: tuple[Shard, ...]) -> list[str]:
    """What users see."""
    return [shard.name for shard in shards]


def test_patterns_keep_their_order_and_each_is_sorted(tmp_path: Path) -> None:
    """Brace, glob and directory in one list; names start at the directory they share."""
    touch(tmp_path, "b/2.tar", "b/10.tar", "a-01.tar", "a-00.tar", "d/z.tar", "d/y.tar", "d/notes.txt", "d/.hidden.tar")
    found = find_shards(["b/*.tar", "a-{00..01}.tar", "d"], tmp_path)
    assert names(found) == ["b/10.tar", "b/2.tar", "a-00.tar", "a-01.tar", "d/y.tar", "d/z.tar"]
    assert found[0].size == 512
    assert found[0].mtime_ns == (tmp_path / "b/10.tar").stat().st_mtime_ns


def test_names_do_not_depend_on_where_the_data_set_lies(tmp_path: Path) -> None:
    """The same shards under another directory have the same names."""
    touch(tmp_path, "here/x/1.tar", "here/y/1.tar", "there/deep/x/1.tar", "there/deep/y/1.tar")
    here = find_shards(["here/*/1.tar"], tmp_path)
    there = find_shards([str(tmp_path / "there/deep/{x,y}/1.tar")], Path("/"))
    assert names(here) == names(there) == ["x/1.tar", "y/1.tar"]


def test_a_file_name_with_glob_letters_is_found_as_written(tmp_path: Path) -> None:
    """An existing path wins over its reading as a glob."""
    touch(tmp_path, "run[1].tar", "run1.tar")
    assert names(find_shards(["run[1].tar"], tmp_path)) == ["run[1].tar"]


@pytest.mark.parametrize(
    "pattern",
    [
        "pipe:cat a.tar",
        "file:a.tar",
        "file:///a.tar",
        "http://h/a.tar",
        "s3://b/a.tar",
        "{pipe:id,x}.tar",
        "a.tar::b.tar",
    ],
)
def test_fault_88_only_local_paths_are_taken(tmp_path: Path, pattern: str) -> None:
    """A scheme, `pipe:` above all, is refused even where a file of that name exists."""
    (tmp_path / "pipe:cat a.tar").write_bytes(b"")
    touch(tmp_path, "a.tar")
    with pytest.raises(ConfigError, match="expected a local path, got a scheme"):
        find_shards([pattern], tmp_path)


def test_a_colon_in_a_file_name_can_be_written(tmp_path: Path) -> None:
    """The remedy that the error names works."""
    touch(tmp_path, "a:b.tar")
    assert names(find_shards(["./a:b.tar"], tmp_path)) == ["a:b.tar"]


@pytest.mark.parametrize("pattern", ["no.tar", "no-{0..1}.tar", "no-*.tar", "empty", "a.tar/no.tar"])
def test_fault_38_a_pattern_that_matches_nothing_is_one_clear_line(tmp_path: Path, pattern: str) -> None:
    """The pattern and the path that was looked for are named."""
    touch(tmp_path, "a.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^no such shard: ") as caught:
        find_shards([pattern], tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_pattern_at_all_is_said(tmp_path: Path) -> None:
    """An empty list is not an empty data set."""
    with pytest.raises(ConfigError, match="no such shard"):
        find_shards([], tmp_path)


@pytest.mark.parametrize("pattern", ["", " ", "\t\n", "{,a.tar}", "{a.tar,}"])
def test_an_empty_name_is_not_the_current_directory(tmp_path: Path, pattern: str) -> None:
    """`--shards "$SHARDS"` with a variable that is not set would otherwise take whatever lies there."""
    touch(tmp_path, "a.tar")
    with pytest.raises(ConfigError, match=r"got an empty name; the current directory is written as `\.`") as caught:
        find_shards([pattern], tmp_path)
    assert "\n" not in str(caught.value)
    assert names(find_shards(["."], tmp_path)) == ["a.tar"]


def test_unbalanced_braces_are_named(tmp_path: Path) -> None:
    """The error shows how braces are written."""
    with pytest.raises(ConfigError, match=r"unbalanced braces; write `\{0000\.\.0003\}`"):
        find_shards(["a-{00..01.tar"], tmp_path)


@pytest.mark.parametrize("patterns", [["a.tar", "a.tar"], ["a.tar", "./x/../a.tar"], [".", "a.tar"], ["{a,a}.tar"]])
def test_a_shard_listed_twice_is_refused(tmp_path: Path, patterns: list[str]) -> None:
    """Its samples would silently be delivered twice an epoch."""
    touch(tmp_path, "a.tar")
    with pytest.raises(ConfigError, match="listed twice"):
        find_shards(patterns, tmp_path)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst", "a.tar.xz", "a.tar.bz2"])
@pytest.mark.parametrize("whole_directory", [False, True])
def test_fault_48_a_compressed_shard_is_refused_with_the_remedy(
    tmp_path: Path, name: str, whole_directory: bool
) -> None:
    """By name, or because a directory holds nothing else."""
    touch(tmp_path, f"d/{name}")
    with pytest.raises(ShardError, match="decompress it to ") as caught:
        find_shards(["d" if whole_directory else f"d/{name}"], tmp_path)
    assert caught.value.reason == "shard_compressed"


def test_fault_39_what_is_no_regular_file_is_unreadable(tmp_path: Path) -> None:
    """A directory among the matches and a named pipe (which would block for ever) are refused at once."""
    (tmp_path / "a-1.tar").mkdir()
    os.mkfifo(tmp_path / "b-1.tar")
    for pattern in ("a-*.tar", "b-1.tar"):
        with pytest.raises(ShardError) as caught:
            find_shards([pattern], tmp_path)
        assert caught.value.reason == "shard_unreadable"


def test_fault_39_a_shard_without_permission_is_unreadable() -> None:
    """Said when shards are found, before anything is indexed; run as somebody who is not root."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom owl_stream.shards import find_shards\n"
        "from owl_stream.shards.source import Shard, open_shard\nfrom owl_stream.errors import ShardError\n"
        "import braceexpand\n"
        "os.chdir(sys.argv[1])\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "for act in (lambda: find_shards(['a.tar'], Path()), lambda: open_shard(Shard('a', Path('a.tar'), 512, 0))):\n"
        "    try: act()\n"
        "    except ShardError as exc: print(exc.reason)\n"
    )
    # Not below tmp_path, whose parents only its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        touch(base, "a.tar")
        (base / "a.tar").chmod(0o000)
        run = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["shard_unreadable", "shard_unreadable"]


def test_fault_38_a_shard_that_vanished_is_missing(tmp_path: Path) -> None:
    """Between finding and opening."""
    touch(tmp_path, "a.tar")
    (shard,) = find_shards(["a.tar"], tmp_path)
    shard.path.unlink()
    with pytest.raises(ShardError, match="no such file") as caught:
        open_shard(shard)
    assert caught.value.reason == "shard_missing"


def test_a_failure_of_storage_is_retryable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error while opening is not the shard's fault."""
    touch(tmp_path, "a.tar")
    (shard,) = find_shards(["a.tar"], tmp_path)

    def fail(*_args: object, **_kwargs: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ReadError, match="Input/output error"):
        open_shard(shard)
