"""The command line on a machine that lacks something: one line that names it and the remedy, never a traceback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Here, one_line
from tests.support.machine import SHARED_MEMORY, command, few_files, full, mounted, read_only
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT

INDEXING = ("index", "check", "plan", "inspect")
"""Commands that index what is not indexed yet."""


def run(
    arguments: list[str], *, preexec: Callable[[], None] | None = None, stdout: int = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        arguments,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        check=False,
        preexec_fn=preexec,  # one thread, and a limit is set
    )


@pytest.mark.parametrize("name", INDEXING)
def test_fault_110_no_shared_memory(config: Path, name: str) -> None:
    """A read-only /dev/shm: what to mount."""
    line = one_line(run(mounted(SHARED_MEMORY["read_only"], command(name, "--config", config))))
    assert "/dev/shm: Read-only file system" in line
    assert "mount a tmpfs there" in line


def test_fault_110_no_shared_memory_at_all(config: Path) -> None:
    """/dev/shm is not there."""
    line = one_line(run(mounted(SHARED_MEMORY["missing"], command("index", "--config", config))))
    assert "/dev/shm: No such file or directory" in line


@pytest.mark.parametrize("name", INDEXING)
def test_fault_111_too_few_open_files(config: Path, name: str) -> None:
    """The limit is named, and how to raise it."""
    line = one_line(run(command(name, "--config", config), preexec=few_files(14)))
    assert "14 files open" in line
    assert "ulimit -n" in line


@pytest.mark.parametrize("kind", [full, read_only], ids=["full", "read_only"])
def test_fault_124_an_index_directory_that_cannot_be_written(config: Path, kind: Callable[[Path], str]) -> None:
    """The directory is named, and the flag that names another one."""
    index = config.parent / "index"
    line = one_line(run(mounted(kind(index), command("index", "--config", config, "--index-dir", index))))
    assert str(index) in line
    assert "--index-dir" in line


@pytest.mark.parametrize("place", ["owl-stream.yaml", "owl-stream.yaml/below"])
def test_fault_124_an_index_directory_that_is_a_file(here: Here, config: Path, place: str) -> None:
    """The same where a file stands in its place, or above it."""
    assert place in one_line(here("index", "--config", config, "--index-dir", config.parent / place))


@pytest.mark.parametrize("name", ["index", "check", "plan", "serve"])
def test_a_configuration_that_is_a_directory(here: Here, config: Path, name: str) -> None:
    """It is named."""
    assert str(config.parent) in one_line(here(name, "--config", config.parent))


RAISING = """
import owl_stream.assemble as assemble
def open_dataset(*arguments, **options):
    raise {}
assemble.open_dataset = open_dataset
"""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("RuntimeError('no such thing')", 1, "please report it"),
        ("MemoryError()", 1, "out of memory"),
        ("PermissionError(13, 'Permission denied', 'a.tar')", 2, "a.tar: Permission denied"),
        ("OSError(5, 'Input/output error', 'a.tar')", 1, "a.tar: Input/output error"),
        ("ExceptionGroup('several', [OSError(24, 'Too many open files')])", 2, "ulimit -n"),
    ],
)
@pytest.mark.parametrize("name", ["index", "plan"])
def test_fault_112_what_no_command_foresaw_is_one_line_too(
    config: Path, name: str, error: str, code: int, said: str
) -> None:
    """Exit code 2 where the machine's owner can mend it, else 1."""
    done = run(command(name, "--config", config, patch=RAISING.format(error)))
    assert done.returncode == code
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("owl-stream: ")
    assert said in done.stderr


def test_fault_112_the_traceback_is_there_for_who_asks(config: Path) -> None:
    """OWL_TRACEBACK, which the line names, shows it before the line."""
    raising = command("index", "--config", config, patch=RAISING.format("RuntimeError('no such thing')"))
    assert "OWL_TRACEBACK=1" in run(raising).stderr
    shown = run(raising, OWL_TRACEBACK="1").stderr
    assert shown.lstrip().startswith("Traceback")
    assert shown.strip().splitlines()[-1].startswith("owl-stream: ")


def test_fault_112_check_blames_no_sample_for_workers_that_never_start(config: Path, tmp_path: Path) -> None:
    """Where the workers die, not one sample is listed as bad."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'owl_stream.engine.worker' in sys.orig_argv:\n    os._exit(3)\n"
    )
    done = run(command("check", "--config", config), PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "workers ended one after the other" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["index", "plan"])
def test_output_that_cannot_be_written_is_an_error(config: Path, name: str) -> None:
    """A full disk behind stdout: one line, and not exit code 0."""
    with open("/dev/full", "w") as no_room:
        done = run(command(name, "--config", config), stdout=no_room.fileno())
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_a_reader_that_stops_reading_gets_no_traceback(config: Path) -> None:
    """`owl-stream plan | head -0`: it ends, without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(command("plan", "--config", config), stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("name", INDEXING)
def test_fault_112_indexing_processes_that_die_at_once(config: Path, tmp_path: Path, name: str) -> None:
    """They are killed before they have read anything: one line that says so, exit code 1, because it may pass."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif any('spawn_main' in each for each in sys.orig_argv):\n    os.kill(os.getpid(), 9)\n"
    )
    done = run(command(name, "--config", config), PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "an indexing process died" in done.stderr


@pytest.mark.parametrize("allowed", [0, 1])
def test_fault_112_indexing_that_may_start_no_thread_ends(config: Path, tmp_path: Path, allowed: int) -> None:
    """Neither the pool's own thread nor the one behind its queue: nobody would give the processes work, or end them."""
    (tmp_path / "site").mkdir()
    patch = f"""
import sys, threading
if "multiprocessing" not in " ".join(sys.orig_argv):
    real, left = threading.Thread.start, [{allowed}]
    def start(self):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        real(self)
    threading.Thread.start = start
"""
    (tmp_path / "site" / "sitecustomize.py").write_text(patch)
    ended = run(command("index", "--config", str(config), "--processes", "2"), PYTHONPATH=f"{tmp_path / 'site'}:{ROOT}")
    assert ended.returncode == 2, ended.stderr
    assert "ulimit -u" in ended.stderr.splitlines()[-1]
