"""The command as a user runs it: a process of its own, or (where only its words matter) in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from owl_stream.cli import main
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT


def owl_stream(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return run("-m", "owl_stream.cli", *arguments, cwd=cwd)


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python, with this checkout's packages."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=cwd, env=env, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single line that an error is, checked for its form."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("owl-stream: ")
    return lines[0]


class Here:
    """Runs the command in this process, which is quicker."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Exit code, stdout and stderr."""
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, out, err)

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """What it prints with --json, and nothing but that."""
        done = self(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)
