"""`owl-stream pack`: four formats that train, and a run that may be killed at any point."""

from __future__ import annotations

import signal
from pathlib import Path

from owl_client import OwlStreamDataset
from owl_stream.demo.training import Trainer
from tests.cli.command import Here, one_line, run
from tests.pack.foreign import llava, sharegpt, swift, write_array, write_captions, write_lines, write_pictures
from tests.support.datasets import write_config
from tests.support.server import ServerProcess
from tests.support.tokenizer import small_tokenizer

KILLED = """
import os, signal, sys, threading
from owl_stream.cli import main

name, at, real, calls, lock = sys.argv[1], int(sys.argv[2]), getattr(os, sys.argv[1]), 0, threading.Lock()

def deadly(*arguments):
    global calls
    with lock:
        calls += 1
        if calls == at:
            if name == "replace":
                real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

setattr(os, name, deadly)
main(sys.argv[3:])
"""
"""Packs, and kills itself at the n-th call: before syncing what it wrote, or right behind renaming it."""


def test_four_formats_become_shards_that_train(here: Here, tmp_path: Path) -> None:
    """LLaVA, ShareGPT, ms-swift and captions, packed side by side, go through a server to a trainer; none is lost."""
    names = write_pictures(tmp_path, 4)
    inputs = {
        "llava": write_array(tmp_path / "llava.json", llava(names)),
        "sharegpt": write_lines(tmp_path / "sharegpt.jsonl", sharegpt(names)),
        "swift": write_lines(tmp_path / "swift.jsonl", swift(names)),
        "folder": write_captions(tmp_path / "captions", 3),
    }
    samples = 0
    for form, path in inputs.items():
        made = here.json("pack", path, "--out", tmp_path / "shards", "--name", form, "--format", form)
        assert made["bad"] == []
        samples += made["samples"]
    assert samples == 6 + 4 + 4 + 3
    small_tokenizer(tmp_path / "tokenizer.json")
    config = write_config(tmp_path, shards=["shards"])
    trainer, rows = Trainer(), []
    with ServerProcess(config) as server, OwlStreamDataset(server.url) as dataset:
        for batch in dataset:
            trainer.learn(batch)
            rows += [(row.shard, row.key) for row in batch.meta.rows if row.status == "ok"]
    assert len(rows) == len(set(rows)) == samples
    assert len(trainer.losses) == len(dataset)
    assert all(loss > 0 for loss in trainer.losses)


def test_a_run_that_is_killed_and_started_again_writes_what_an_undisturbed_one_does(here: Here, tmp_path: Path) -> None:
    """SIGKILL before a shard is synced, behind a rename, before the last files: the same bytes, nothing twice."""
    path = write_array(tmp_path / "x.json", llava(write_pictures(tmp_path, 22)))
    arguments = ["pack", str(path), "--shard-samples", "3", "--workers", "2", "--out"]
    assert here(*arguments, tmp_path / "whole").returncode == 0
    for call, at in (("fsync", 3), ("replace", 1), ("fsync", 8), ("replace", 4), ("replace", 2)):
        done = run("-c", KILLED, call, str(at), *arguments, str(tmp_path / "killed"))
        assert done.returncode == -signal.SIGKILL, done.stderr
    made = here.json(*arguments, tmp_path / "killed")
    assert made["kept"] > 0
    assert made["samples"] == 24
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def files(directory: Path) -> dict[str, bytes]:
    """Everything that is not the journal."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def test_bad_inputs_are_told_and_counted(here: Here, tmp_path: Path) -> None:
    """On stderr with their lines, on stdout as a number; `--on-bad fail` ends with the first one."""
    names = [*write_pictures(tmp_path, 1), "../up.jpg"]
    path = write_array(tmp_path / "x.json", llava(names)[:2])
    done = here("pack", path, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "line 16: image '../up.jpg' lies outside" in done.stderr
    assert "1 bad inputs left out" in done.stdout
    failed = here("pack", path, "--out", tmp_path / "fail", "--on-bad", "fail")
    assert failed.returncode == 2
    assert failed.stderr.startswith("owl-stream: ")
    assert "line 16" in failed.stderr


def test_a_run_is_begun_anew_or_gone_on_with_as_asked(here: Here, tmp_path: Path) -> None:
    """Other settings are one line with the remedy; `--force` starts anew, `--resume` goes on, both are refused."""
    path = write_array(tmp_path / "x.json", llava(write_pictures(tmp_path, 4)))
    arguments = ("pack", path, "--out", tmp_path / "out")
    assert here(*arguments, "--shard-samples", "3").returncode == 0
    assert "--force" in one_line(here(*arguments))
    assert here.json(*arguments, "--force")["kept"] == 0
    assert "1 shards (1 of them kept from an earlier run)" in here(*arguments, "--resume").stdout
    assert "give one of them" in one_line(here(*arguments, "--resume", "--force"))
