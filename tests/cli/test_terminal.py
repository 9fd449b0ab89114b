"""What the terminal is given: JSON alone where it is asked for, bars on stderr, completion, a quiet Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from owl_stream.cli import terminal
from owl_stream.cli.histogram import Distribution
from tests.cli.command import Here, owl_stream, run
from tests.support.datasets import small_dataset
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT

COMMANDS = ("demo", "pack", "check", "index", "serve", "bench", "doctor", "plan", "fit-cost", "inspect", "version")


def test_every_command_has_help_and_json(here: Here) -> None:
    """`--help` of each says what it does and offers `--json`; without a command the commands are listed."""
    overview = here().stdout
    for command in COMMANDS:
        assert command in overview
        done = here(command, "--help")
        assert done.returncode == 0
        assert "--json" in done.stdout


def test_json_is_all_that_stdout_holds(here: Here, config: Path) -> None:
    """One object, parsed whole, from each command that ends by itself."""
    assert here.json("version")["protocol"] == 1
    assert here.json("index", "--config", config)["datasets"]["train"]["samples"] == 8
    assert here.json("plan", "--config", config)["steps_per_epoch"] == 3
    assert len(here.json("inspect", "--config", config)["rows"]) == 4


def test_serve_speaks_json_a_line_at_a_time(config: Path) -> None:
    """First where it listens, then that it is ready; SIGTERM ends it with 0."""
    command = [sys.executable, "-m", "owl_stream.cli", "serve", "--json", "--port", "0", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        listening, ready = (json.loads(server.stdout.readline()) for _ in range(2))
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
    assert listening["event"] == "listening"
    assert listening["url"].startswith("http://127.0.0.1:")
    assert ready == {"event": "ready", "datasets": ["train"]}


def test_the_shell_completes_commands_and_values() -> None:
    """Typer's completion, asked as bash asks it."""

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        code = "from owl_stream.cli import main; main()"
        asked = {"_OWL_STREAM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return run("-c", code, **asked).stdout.split()

    assert complete("owl-stream ins") == ["inspect"]
    assert complete("owl-stream serve --layout owl3-2") == ["owl3-240728", "owl3-241101"]
    # The script is for the shell that asks, which is looked for among the parents: let one be there.
    asking = ["bash", "-c", f"'{sys.executable}' -m owl_stream.cli --show-completion; exit $?"]
    script = subprocess.run(asking, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "_OWL_STREAM_COMPLETE" in script.stdout


def test_a_bar_appears_on_stderr_only_where_work_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before its time, not where no terminal looks."""

    def shown(after_s: float, *, is_terminal: bool) -> str:
        monkeypatch.setattr(terminal, "SHOW_AFTER_S", after_s)
        out = io.StringIO()
        with terminal.Bar("reading", Console(file=out, force_terminal=is_terminal, width=80)) as bar:
            bar.bytes(1 << 20, 2 << 20)
        return out.getvalue()

    assert "1.0 MiB of 2.0 MiB" in shown(0, is_terminal=True)
    assert shown(3600, is_terminal=True) == ""
    assert shown(0, is_terminal=False) == ""


def test_ctrl_c_ends_with_130_and_without_a_word(tmp_path: Path) -> None:
    """SIGINT to the whole group, as a terminal sends it, while processes start and index."""
    path = small_dataset(tmp_path, samples=400, shards=4)
    # On a busy machine a run may end before the signal reaches it; that one says nothing about interrupts.
    outcomes = (_interrupted_check(path) for _ in range(5))
    assert next((outcome for outcome in outcomes if outcome[0] != 0), None) == (130, "", "")


def _interrupted_check(path: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a `check` that is interrupted as soon as it has children."""
    command = ["env", "--default-signal=INT", sys.executable, "-m", "owl_stream.cli", "check", "--config", str(path)]
    # Whoever runs the tests in the background of a shell ignores SIGINT, and so would what they start.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as check:
        children = Path(f"/proc/{check.pid}/task/{check.pid}/children")
        while not children.read_text().split():
            assert check.poll() is None
        os.killpg(check.pid, signal.SIGINT)
        out, err = check.communicate(timeout=PATIENCE_S)
    return check.returncode, out, err


def test_a_reader_that_goes_away_is_no_traceback(config: Path) -> None:
    """`owl-stream plan | head -1`."""
    line = f"{sys.executable} -m owl_stream.cli plan --rows --config {config} | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == ""


def test_a_distribution_is_counted_in_round_bins() -> None:
    """Chunk by chunk, no sample lost, bins from the first to the last value; none at all is no error."""
    import numpy as np

    some = Distribution()
    some.add(np.array([7, 7, 40]))
    some.add(np.array([123, 7]))
    assert (some.samples, some.at_most(0), some.at_most(0.5), some.at_most(1)) == (5, 7, 7, 123)
    assert some.mean == pytest.approx(184 / 5)
    assert [(bin.low, bin.high, bin.samples) for bin in some.bins() if bin.samples] == [
        (0, 19, 3),
        (40, 59, 1),
        (120, 139, 1),
    ]
    assert list(Distribution().lines("crops")) == ["crops: 0 to 0, mean 0.0, median 0, 99 % have at most 0"]


def test_version() -> None:
    """`owl-stream version` prints the version."""
    from owl_stream import __version__

    assert owl_stream("version").stdout.strip() == __version__


def test_the_page_of_commands_names_commands_and_options_that_exist(here: Here) -> None:
    """Each command line of docs/commands.md is one that the program takes, and every command is on the page."""
    lines = re.findall(r"^\$ owl-stream (.+)$", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    assert {line.split()[0] for line in lines} == set(COMMANDS)
    for line in lines:
        command, *words = line.split()
        known = here(command, "--help").stdout
        assert all(word in known for word in words if word.startswith("--"))
