"""Machines that lack something, for real: a mount namespace of one's own, a limit, a module that misbehaves."""

from __future__ import annotations

import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

READ_ONLY = "mount -t tmpfs -o ro tmpfs /dev/shm"
MISSING = (
    "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 "
    "&& mknod -m 666 /dev/random c 1 8"
)
SHARED_MEMORY = {"read_only": READ_ONLY, "missing": MISSING}
"""What to mount so that /dev/shm is of no use."""


@cache
def may_mount() -> bool:
    """Whether this process may have mounts of its own."""
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(["unshare", "-m", "sh", "-c", MISSING], capture_output=True, timeout=30, check=False)
    return done.returncode == 0


def mounted(mounts: str, command: list[str]) -> list[str]:
    """The command behind those mounts, which no other process sees."""
    if not may_mount():
        pytest.skip("mounts of one's own are not allowed here: needs root and CAP_SYS_ADMIN")
    return ["unshare", "-m", "sh", "-c", f"{mounts} && exec {shlex.join(command)}"]


def full(directory: Path, kib: int = 4) -> str:
    """Mount a file system of a single page at a directory."""
    directory.mkdir(exist_ok=True)
    return f"mount -t tmpfs -o size={kib}k tmpfs {shlex.quote(str(directory))}"


def read_only(directory: Path) -> str:
    """Mount an empty file system at a directory that even root cannot write."""
    directory.mkdir(exist_ok=True)
    return f"mount -t tmpfs -o ro tmpfs {shlex.quote(str(directory))}"


def few_files(most: int) -> Callable[[], None]:
    """For `preexec_fn`: the process may have so many files open, and cannot raise that."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def command(*arguments: str | Path, patch: str = "") -> list[str]:
    """`owl-stream` with these arguments, after the statements of `patch` were run in its process."""
    if not patch:
        return [sys.executable, "-m", "owl_stream.cli", *map(str, arguments)]
    code = f"{patch}\nfrom owl_stream.cli import main\nmain({[str(argument) for argument in arguments]!r})\n"
    return [sys.executable, "-c", code]
