"""The server's log, its metrics and its errors hold nothing that steers a terminal, and no line that nobody wrote."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from tests.support.datasets import small_dataset
from tests.support.hostile import HOSTILE, NAMES, assert_inert
from tests.support.http import connect, get, read_to_end
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess
from tests.support.tars import chat, write_shard

RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) \S")


def hostile_server(directory: Path) -> Path:
    """A server of data sets with hostile names: one with a hostile field in its records, one that cannot be served."""
    path = small_dataset(directory, samples=4, shards=1, server={"workers": 1})
    write_shard(
        directory / f"train-{NAMES[1]}.tar", [(f"key{NAMES[0]}", {"json": chat((HOSTILE, HOSTILE), **{NAMES[1]: 1})})]
    )
    whole = yaml.safe_load(path.read_text())
    dataset = whole["datasets"].pop("train")
    whole["datasets"] = {HOSTILE: dataset, f"bad {HOSTILE}": {**dataset, "shards": [f"none {HOSTILE}.tar"]}}
    path.write_text(yaml.safe_dump(whole))
    return path


def hold_lines(log: str, form: str) -> None:
    """Every line of a log is a whole record of its form, or (as text) has the margin of a traceback."""
    assert_inert(log)
    lines = log.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(log.splitlines())
    for line in lines:
        if form == "json":
            assert {"time", "level", "logger", "message"} <= json.loads(line).keys()
        else:
            assert line.startswith("    ") or RECORD.match(line), line


@pytest.mark.parametrize("form", ["text", "json"])
def test_fault_137_the_log_of_a_hostile_server_has_only_its_own_lines(tmp_path: Path, form: str) -> None:
    """Names, notes and errors of data, and requests that are none; the metrics hold names too."""
    config = hostile_server(tmp_path)
    with ServerProcess(config, arguments=("--log-format", form, "--log-level", "debug")) as server:
        name = quote(HOSTILE, safe="")
        assert get(f"{server.url}/v1/datasets/{name}/stream").status == 200
        missing = get(f"{server.url}/v1/datasets/{name}x?{name}={name}")
        assert missing.status == 404
        assert_inert(missing.error["message"])
        assert_inert(get(f"{server.url}/metrics").body.decode())
        for raw in (b"GET \x1b[31m\x07 HTTP/1.1\r\n\r\n", HOSTILE.encode() + b"\r\n\r\n"):
            with connect(server.url) as sock:
                sock.sendall(raw)
                read_to_end(sock)
        assert server.stop() == 0
        log = server.log.read_text()
    hold_lines(log, form)
    told = log if form == "text" else "".join(json.loads(line)["message"] for line in log.splitlines())
    assert "is not served" in told
    assert "does not know" in told
    assert (HOSTILE in told) is (form == "json")  # which reads back as it was


@pytest.mark.parametrize("form", ["text", "json"])
def test_fault_137_what_any_logger_says_is_one_record(form: str) -> None:
    """Also uvicorn's and asyncio's; also with exceptions and stacks; in the stream of that name."""
    code = f"""
import logging, uvicorn
from owl_stream.cli.terminal import guarded
from owl_stream.server.logs import configure_logs, stream_in_logs
from tests.support.hostile import HOSTILE, SURROGATE
with guarded():
    configure_logs({form!r}, "debug")
    for name in ("owl_stream.server", "uvicorn.error", "asyncio", HOSTILE):
        log = logging.getLogger(name)
        with stream_in_logs(HOSTILE):
            log.warning("of %s", HOSTILE + SURROGATE, stack_info=True)
        try:
            raise ExceptionGroup(HOSTILE, [ValueError(HOSTILE), KeyError(SURROGATE)]) from RuntimeError(HOSTILE)
        except ExceptionGroup:
            log.exception(HOSTILE)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=True
    )
    hold_lines(done.stderr, form)
    records = [line for line in done.stderr.splitlines() if not line.startswith("    ")]
    assert len(records) == 8


def test_fault_137_what_a_worker_says_is_no_line_of_the_log() -> None:
    """Its stderr is the server's: warnings of libraries and a traceback come there with a margin, and inert."""
    code = (
        "import sys, warnings\nfrom owl_stream.engine import worker\n"
        "from tests.support.hostile import HOSTILE, SURROGATE\n"
        "def fail(parent):\n"
        "    warnings.warn(HOSTILE)\n    print(HOSTILE, file=sys.stderr)\n    raise RuntimeError(HOSTILE + SURROGATE)\n"
        "worker.die_with_parent = fail\nsys.argv = ['worker', '0', '1', '1']\nworker.main()\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    printed = assert_inert(done.stderr)
    assert "RuntimeError: a" in printed
    assert all(line.startswith("    ") for line in printed.splitlines())
