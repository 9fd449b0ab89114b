"""A FIFO, a device, a socket or a directory for a file: refused by name, and never waited for. Fault 128."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from owl_stream.assemble.files import ShardFiles
from owl_stream.errors import DataChangedError, ShardError
from owl_stream.shards import NotRegularError, Shard, find_shards, open_regular, read_span
from owl_stream.shards.source import open_shard
from tests.cli.command import owl_stream
from tests.engine.conftest import open_small
from tests.support.datasets import small_dataset
from tests.support.patience import PATIENCE_S
from tests.support.stalling import stalled
from tests.support.tars import picture


def fifo(path: Path) -> None:
    """A FIFO that nobody writes to."""
    os.mkfifo(path)


def bound(path: Path) -> None:
    """What a socket leaves behind."""
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(path.parent, os.O_RDONLY)
        try:
            sock.bind(f"/proc/self/fd/{here}/{path.name}")  # a path of a test may be too long for a socket
        finally:
            os.close(here)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (fifo, "a FIFO"),
    "link to a fifo": (lambda path: (os.mkfifo(f"{path}.fifo"), path.symlink_to(f"{path}.fifo"))[1], "a FIFO"),
    "socket": (bound, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "directory": (Path.mkdir, "a directory"),
}


@pytest.fixture(params=SPECIAL.values(), ids=SPECIAL)
def special(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A path that is no file, and what it is."""
    make, kind = request.param
    path = tmp_path / "train-00000.tar"
    make(path)
    return path, kind


def test_fault_128_a_shard_that_is_no_file_is_refused_wherever_it_is_opened(special: tuple[Path, str]) -> None:
    """Found, indexed, read by a worker and by a page: each says what it is, and none waits for it."""
    path, kind = special
    shard = Shard("train-00000.tar", path, 10240, 0)
    if kind != "a directory":  # whose tars are meant
        with pytest.raises(ShardError, match=f"expected a regular file, got {kind}"):
            find_shards([str(path)], path.parent)
    with pytest.raises(ShardError, match=f"expected a regular file, got {kind}"):
        open_shard(shard)
    with pytest.raises(DataChangedError, match=f"expected a regular file, got {kind}"):
        ShardFiles([shard]).read(0, 0, 512, 0)
    with pytest.raises(DataChangedError, match=f"expected a regular file, got {kind}"):
        read_span(path, 0, 512, 0)


def test_fault_128_a_file_that_becomes_a_fifo_meanwhile_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the opening: the second look finds it."""
    path = tmp_path / "train-00000.tar"
    path.write_bytes(bytes(1024))
    real = os.open

    def swapped(name: object, flags: int, *rest: int) -> int:
        if name == path:
            path.unlink()
            os.mkfifo(path)
        return real(name, flags, *rest)  # type: ignore[arg-type] # as it came

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(NotRegularError, match="a FIFO"):
        open_regular(path)


def test_fault_128_a_file_that_another_process_holds_a_lease_on_is_waited_for(tmp_path: Path) -> None:
    """As before: opening waits until the lease is given up, and then the file is there."""
    path = tmp_path / "train-00000.tar"
    path.write_bytes(b"bytes")
    opened = list[int]()
    waiting = threading.Thread(target=lambda: opened.append(open_regular(path)))
    with stalled(path) as stall:
        waiting.start()
        while not stall.felt:
            time.sleep(0.001)
    waiting.join(PATIENCE_S)
    (file,) = opened
    assert os.read(file, 10) == b"bytes"
    os.close(file)


def test_fault_128_check_lists_a_fifo_among_good_shards(tmp_path: Path) -> None:
    """The others are checked all the same."""
    config = small_dataset(tmp_path, samples=8, shards=1)
    os.mkfifo(tmp_path / "train-00001.tar")
    done = owl_stream("check", "--config", str(config), "--json")
    report = json.loads(done.stdout)["datasets"]["train"]
    assert (done.returncode, report["samples"], report["reasons"]) == (1, 8, {"shard_unreadable": 1})


@pytest.mark.parametrize("kind", ["scan", "cost", "rows", "columns", "shortcut"])
def test_fault_128_an_index_file_that_is_a_fifo_is_made_again(tmp_path: Path, kind: str) -> None:
    """As any other damage to the index; nothing waits for it."""
    config = small_dataset(tmp_path, samples=8, shards=1)
    before = open_small(config)
    before.close()
    for path in (tmp_path / ".owl-index").glob(f"*.{kind}"):
        path.unlink()
        os.mkfifo(path)
    again = open_small(config)
    again.close()
    assert again.fingerprint == before.fingerprint


def test_fault_128_a_caption_that_is_a_fifo_is_a_bad_input(tmp_path: Path) -> None:
    """Packing a folder goes on with the others and names it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(picture(20, 20))
    (folder / "a.txt").write_text("An owl.")
    os.mkfifo(folder / "b.txt")
    done = owl_stream("pack", str(folder), "--out", str(tmp_path / "out"), "--json")
    assert "a FIFO" in done.stdout + done.stderr + "".join(
        path.read_text() for path in (tmp_path / "out").glob("*.jsonl")
    )
