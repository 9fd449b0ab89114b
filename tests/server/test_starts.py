"""A start that fails says so: in the log, in /health, on the page, and by the exit code. It never waits for ever.

Faults 95, 110, 111, 112, 113 and 114 of docs/faults.md.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from tests.support.datasets import small_dataset
from tests.support.http import get
from tests.support.server import ROOT, ServerProcess

HANGS_S = 300
"""Far beyond what a start takes: only one that never ends reaches it."""

READ_ONLY = "mount -t tmpfs -o size=4k,ro none /dev/shm"
MISSING = (
    "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && mknod /dev/zero c 1 5 "
    "&& chmod 666 /dev/null /dev/urandom /dev/zero"
)
FULL = "mount -t tmpfs -o size=4k none /dev/shm && head -c 4096 /dev/zero > /dev/shm/full"


def few_descriptors() -> None:
    """In the child: too few to start a process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))


def may_mount() -> bool:
    """Whether a mount namespace of our own can be made here."""
    probe = ["unshare", "--mount", "sh", "-c", READ_ONLY]
    return (
        shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    )


def run(
    command: Sequence[str],
    config: Path,
    mounts: str = "",
    limit: Callable[[], None] | None = None,
    site: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """An owl-stream command that must end by itself."""
    arguments = [sys.executable, "-m", "owl_stream.cli", *command, "--config", str(config)]
    if mounts:
        arguments = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *arguments]
    path = f"{site}{os.pathsep}{ROOT}" if site is not None else str(ROOT)
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        arguments, env=env, capture_output=True, text=True, timeout=HANGS_S, check=False, preexec_fn=limit
    )


COMMANDS = [["serve", "--port", "0"], ["index"], ["check"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("mounts", [READ_ONLY, MISSING, FULL], ids=["read-only", "missing", "full"])
def test_without_shared_memory_the_reason_is_one_line(tmp_path: Path, command: list[str], mounts: str) -> None:
    """The command ends, says what is missing and what to do, and leaves no traceback."""
    if not may_mount():
        pytest.skip("needs the right to mount in a namespace of its own")
    ended = run(command, small_dataset(tmp_path), mounts)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("owl-stream: cannot start")
    assert "/dev/shm" in last
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_with_too_few_descriptors_the_reason_is_one_line(tmp_path: Path, command: list[str]) -> None:
    """Whether indexing or a worker lacks them; an index that fits is made all the same."""
    ended = run(command, small_dataset(tmp_path), limit=few_descriptors)
    if command != ["index"] or ended.returncode:
        assert ended.returncode == 1, ended.stderr
        assert "ulimit -n" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("error", ["RuntimeError('odd')", "MemoryError()", "OSError(5, 'Input/output error')"])
def test_an_error_that_nobody_foresaw_ends_a_start_too(tmp_path: Path, error: str) -> None:
    """Of whatever kind: the server ends with a reason, and not by waiting."""
    (tmp_path / "site").mkdir()
    patch = f"import owl_stream.assemble.dataset as d\ndef load_tokenizer(*_):\n    raise {error}\nd.load_tokenizer = load_tokenizer\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(patch)
    ended = run(["serve", "--port", "0"], small_dataset(tmp_path), site=tmp_path / "site")
    assert ended.returncode == 1, ended.stderr
    assert "cannot open train" in ended.stderr.splitlines()[-1]


def test_workers_that_end_at_once_end_the_start(tmp_path: Path) -> None:
    """Nothing could be served, so the server says so and goes."""
    (tmp_path / "site").mkdir()
    patch = "import sys\nif 'owl_stream.engine.worker' in ' '.join(sys.orig_argv):\n    raise SystemExit(3)\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(patch)
    ended = run(["serve", "--port", "0"], small_dataset(tmp_path), site=tmp_path / "site")
    assert ended.returncode == 1, ended.stderr
    assert "no worker can serve train" in ended.stderr.splitlines()[-1]


def test_an_index_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The directory is a file, or its disk is full."""
    config = small_dataset(tmp_path)
    (tmp_path / "taken").write_text("")
    for command in COMMANDS:
        ended = run([*command, "--index-dir", str(tmp_path / "taken")], config)
        assert ended.returncode == 2, ended.stderr
        assert "cannot write the index to" in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr


def test_one_dataset_of_two_that_fails_is_named_and_the_other_is_served(tmp_path: Path) -> None:
    """/health is 503 and says why, /readyz is 200, the page's data has the reason; the other one's batches come."""
    config = small_dataset(tmp_path)
    described = yaml.safe_load(config.read_text())
    described["datasets"]["other"] = {**described["datasets"]["train"], "shards": ["none-*.tar"]}
    config.write_text(yaml.safe_dump(described))
    with ServerProcess(config) as server:
        health = get(server.url + "/health")
        assert health.status == 503
        assert health.json["status"] == "degraded"
        assert "none-*.tar" in health.json["datasets"]["other"]["error"]
        assert get(server.url + "/readyz").status == 200
        shown = {dataset["name"]: dataset for dataset in get(server.url + "/pages/overview").json["datasets"]}
        assert "none-*.tar" in shown["other"]["error"]
        assert get(server.url + "/v1/datasets/train/batches/0/0/0").status == 200
        refused = get(server.url + "/v1/datasets/other/batches/0/0/0")
        assert refused.status == 500
        assert "none-*.tar" in refused.error["message"]
        assert "dataset other cannot be served" in server.log.read_text()


def test_background_work_that_ends_is_a_fault_that_health_names(tmp_path: Path) -> None:
    """A task that nobody awaits: its exception is in the log, in /health and in the page's data."""
    (tmp_path / "site").mkdir()
    patch = (
        "from owl_stream.server.connections import Connections\n"
        "async def drop_stuck(self, timeout_s):\n    raise RuntimeError('odd')\n"
        "Connections.drop_stuck = drop_stuck\n"
    )
    (tmp_path / "site" / "sitecustomize.py").write_text(patch)
    config = small_dataset(tmp_path)
    with ServerProcess(config, env={"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"}) as server:
        health = get(server.url + "/health")
        assert health.status == 503
        assert list(health.json["faults"]) == ["the watch over connections"]
        assert "RuntimeError: odd" in health.json["faults"]["the watch over connections"]
        assert get(server.url + "/pages/overview").json["faults"] == health.json["faults"]
        assert "the watch over connections ended" in server.log.read_text()


def test_notes_are_told_when_a_dataset_is_ready(tmp_path: Path) -> None:
    """In the log, in its description and in the page's data."""
    from tests.support.tars import chat, write_shard

    config = small_dataset(tmp_path, samples=8, shards=1)
    odd = [(f"odd{n}", {"json": chat(("a", "b"), mood="glad")}) for n in range(3)]
    write_shard(tmp_path / "train-00001.tar", odd)
    with ServerProcess(config) as server:
        assert get(server.url + "/v1/datasets/train").json["notes"] == {"unknown_field:mood": 3}
        shown = get(server.url + "/pages/overview").json["datasets"][0]["notes"]
        assert list(shown.values()) == [3]
        assert "train: 3 x a field `mood` that owl-stream does not know" in server.log.read_text()
    ended = run(["index", "--json"], config)
    assert json.loads(ended.stdout)["datasets"]["train"]["notes"] == {"unknown_field:mood": 3}
    assert "3 x a field `mood`" in run(["index"], config).stdout
