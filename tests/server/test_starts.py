"""A start that fails says so: the reason is on stderr, in /health and on the page, and the exit code is not 0.

Faults 95, 110, 111, 112, 113, 114 and 124 of docs/faults.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.datasets import small_dataset
from tests.support.http import Answer, get
from tests.support.machine import READ_ONLY, SHARED_MEMORY, command, few_files, full, mounted, read_only
from tests.support.server import ROOT
from tests.support.tars import chat, write_shard

ENDS_WITHIN_S = 90

OPENING = """
import owl_stream.server.catalogue as catalogue
real = catalogue.open_dataset
def open_dataset(name, *arguments, **options):
    if name in {names!r}:
        raise {error}
    return real(name, *arguments, **options)
catalogue.open_dataset = open_dataset
"""
"""Opening these datasets raises something that nobody foresaw."""


def serving(config: Path, *more: str | Path, patch: str = "") -> list[str]:
    """The command that serves a configuration on a free port."""
    return command("serve", "--port", "0", "--config", config, *more, patch=patch)


def ended(
    run: list[str], *, env: dict[str, str] | None = None, preexec: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """What a server that cannot serve leaves behind. It must end by itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        run,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        env=environment,
        cwd=ROOT,
        check=False,
        preexec_fn=preexec,  # one thread, and a limit is set
    )


class Serving:
    """A server that goes on; `log` is what it has written to stderr."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        assert process.stdout is not None
        self.process, self._log = process, log
        self.url = json.loads(process.stdout.readline())["url"]

    def next_event(self) -> dict[str, object]:
        """The next line of stdout."""
        assert self.process.stdout is not None
        event: dict[str, object] = json.loads(self.process.stdout.readline())
        return event

    @property
    def log(self) -> str:
        """Stderr up to now."""
        return self._log.read_text()

    def get(self, path: str) -> Answer:
        """Ask it."""
        return get(self.url + path)


@contextmanager
def started(config: Path, patch: str = "", run: list[str] | None = None) -> Iterator[Serving]:
    """A server that serves at least something; SIGTERM must end it with 0."""
    log = config.with_name("server.log")
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            run or serving(config, "--json", patch=patch),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process,
    ):
        try:
            yield Serving(process, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(ENDS_WITHIN_S) == 0, log.read_text()
        finally:
            process.kill()


def two_datasets(directory: Path, **broken: object) -> Path:
    """The configuration of `good` and `bad`, of the same shards; `broken` are settings of `bad`."""
    path = small_dataset(directory, samples=8, shards=1, server={"workers": 1})
    config = yaml.safe_load(path.read_text())
    good = config["datasets"].pop("train")
    config["datasets"] = {"bad": {**good, "seed": 1, **broken}, "good": good}
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small dataset that is not indexed yet."""
    return small_dataset(tmp_path / "data", samples=8, shards=1, server={"workers": 1})


@pytest.mark.parametrize("mounts", SHARED_MEMORY.values(), ids=SHARED_MEMORY)
def test_fault_110_without_shared_memory_the_server_says_what_to_mount(config: Path, mounts: str) -> None:
    """Indexing needs a writable /dev/shm: without it the process ends with 2, a remedy and no traceback."""
    done = ended(mounted(mounts, serving(config)))
    assert done.returncode == 2
    assert "/dev/shm" in done.stderr
    assert "mount a tmpfs there" in done.stderr
    assert "Traceback" not in done.stderr


def test_fault_110_an_index_that_is_there_is_served_without_shared_memory(config: Path) -> None:
    """Frames lie in memory that has no name: only indexing needs /dev/shm."""
    with started(config) as server:
        assert server.next_event() == {"event": "ready", "datasets": ["train"]}
    with started(config, run=mounted(READ_ONLY, serving(config, "--json"))) as server:
        assert server.next_event() == {"event": "ready", "datasets": ["train"]}
        assert server.get("/v1/datasets/train/batches/0/0/0").status == 200


@pytest.mark.parametrize("most", [12, 24, 63])
def test_fault_111_too_few_open_files_are_refused_with_the_limit_and_the_remedy(config: Path, most: int) -> None:
    """`ulimit -n 24` is no place to serve from: exit code 2, one line, before anything listens."""
    done = ended(serving(config), preexec=few_files(most))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(most) in done.stderr
    assert "ulimit -n" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("kind", [full, read_only], ids=["full", "read_only"])
def test_fault_124_an_index_that_cannot_be_written_ends_the_server(config: Path, kind: Callable[[Path], str]) -> None:
    """A full or read-only index directory is named, and how to choose another one."""
    index = config.parent / "index"
    done = ended(mounted(kind(index), serving(config, "--index-dir", index)))
    assert done.returncode == 2
    assert str(index) in done.stderr
    assert "--index-dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "os._exit(3)"], ids=["killed", "exits"])
def test_fault_112_workers_that_never_start_end_the_server(config: Path, tmp_path: Path, how: str) -> None:
    """A server without one worker would answer every stream with an error: it ends with 1, and says how they ended."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, sys\nif 'owl_stream.engine.worker' in sys.orig_argv:\n    {how}\n"
    )
    done = ended(serving(config), env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert done.returncode == 1
    assert "workers ended one after the other" in done.stderr
    assert ("-9" if "kill" in how else "exit code 3") in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("RuntimeError('no such thing')", 1, "RuntimeError: no such thing"),
        ("MemoryError()", 1, "out of memory"),
        ('RuntimeError("can\'t start new thread")', 2, "ulimit -u"),
        ("OSError(24, 'Too many open files')", 2, "ulimit -n"),
        ("OSError(5, 'Input/output error', 'shard.tar')", 1, "shard.tar: Input/output error"),
        ("KeyError('x')", 1, "KeyError: 'x'"),
    ],
)
def test_fault_112_whatever_opening_raises_ends_the_server(config: Path, error: str, code: int, said: str) -> None:
    """No exception leaves it indexing for ever: each ends the process with its reason as the last line."""
    done = ended(serving(config, patch=OPENING.format(names=["train"], error=error)))
    assert done.returncode == code
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("owl-stream: ")
    assert said in last


BROKEN = {
    "no_tokenizer": ({"tokenizer": "absent.json"}, "", "absent.json"),
    "no_shard": ({"shards": ["absent-*.tar"]}, "", "absent-*.tar"),
    "unforeseen": ({}, OPENING.format(names=["bad"], error="RuntimeError('no such thing')"), "no such thing"),
}


@pytest.mark.parametrize(("settings", "patch", "said"), BROKEN.values(), ids=BROKEN)
def test_fault_113_a_dataset_that_fails_leaves_the_others_alone(
    tmp_path: Path, settings: dict[str, object], patch: str, said: str
) -> None:
    """The good one streams; health is 503 and says why, as do the page, the log and who asks for the bad one."""
    with started(two_datasets(tmp_path, **settings), patch) as server:
        assert server.next_event() == {"event": "ready", "datasets": ["good"]}
        assert server.get("/v1/datasets/good/batches/0/0/0").status == 200
        health = server.get("/health")
        assert (health.status, health.json["status"]) == (503, "degraded")
        assert {name: entry["status"] for name, entry in health.json["datasets"].items()} == {
            "bad": "failed",
            "good": "ready",
        }
        assert said in health.json["datasets"]["bad"]["error"]
        ready = server.get("/readyz")
        assert (ready.status, ready.json) == (503, {"status": "failed"})
        bad, good = server.get("/pages/overview").json["datasets"]
        assert said in bad["error"]
        assert "error" not in good
        refused = server.get("/v1/datasets/bad/stream?epochs=1")
        assert refused.status == 500
        assert said in refused.error["message"]
        assert not refused.error["retryable"]
        assert "dataset bad is not served" in server.log
        assert said in server.log


def test_fault_113_a_server_of_nothing_but_failures_names_them_all(tmp_path: Path) -> None:
    """Two datasets, two reasons, one exit code: 1, because one of the two is not the user's to mend."""
    config = two_datasets(tmp_path, tokenizer="absent.json")
    done = ended(serving(config, patch=OPENING.format(names=["good"], error="RuntimeError('no such thing')")))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    for part in ("no dataset can be served", "bad: ", "absent.json", "good: ", "no such thing"):
        assert part in last


BACKGROUND = {
    "sampling for the dashboard": (
        "from owl_stream.server.pages.history import History\n"
        "def sample(self):\n    raise RuntimeError('no such thing')\nHistory.sample = sample"
    ),
    "dropping stuck connections": (
        "from owl_stream.server.connections import Connections\n"
        "async def drop_stuck(self, timeout):\n    raise RuntimeError('no such thing')\n"
        "Connections.drop_stuck = drop_stuck"
    ),
    "assembly": (
        "from owl_stream.engine import ProcessEngine\n"
        "async def run(self, place):\n    raise RuntimeError('no such thing')\nProcessEngine._run = run"
    ),
}


@pytest.mark.parametrize("what", BACKGROUND)
def test_fault_114_background_work_that_ends_is_told(config: Path, what: str) -> None:
    """A task that nobody waits for and that fails: health 503 with the reason, the page has it, and so has the log."""
    with started(config, BACKGROUND[what]) as server:
        assert server.next_event() == {"event": "ready", "datasets": ["train"]}
        health = server.get("/health")
        assert (health.status, health.json["status"]) == (503, "degraded")
        assert list(health.json["failures"]) == [what]
        assert "no such thing" in health.json["failures"][what]
        assert server.get("/readyz").json == {"status": "failed"}
        assert server.get("/pages/overview").json["failures"] == health.json["failures"]
        assert "RuntimeError: no such thing" in server.log


def test_a_healthy_server_has_no_failures(config: Path) -> None:
    """The witness: the same questions to a server that nothing was done to, and stdout that nobody reads any more."""
    with started(config) as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        while server.get("/readyz").status != 200:
            assert server.process.poll() is None
        health = server.get("/health")
        assert (health.status, health.json["status"], health.json["failures"]) == (200, "ok", {})
        assert server.get("/pages/overview").json["failures"] == {}
        assert server.log == ""


def test_notes_about_good_samples_are_logged_and_shown(tmp_path: Path) -> None:
    """A field that is not used: one line for the dataset in the log, and the same words on the dashboard."""
    config = small_dataset(tmp_path, samples=4, shards=1, server={"workers": 1})
    record = {**json.loads(chat(("Say something.", "Something."))), "foo": 1}
    noted = {"json": json.dumps(record).encode()}
    write_shard(tmp_path / "train-00001.tar", [("first", noted), ("second", noted)])
    with started(config) as server:
        server.next_event()
        said = "2 x a field `foo` that owl-stream does not know: not used"
        assert server.log.count(f"train: {said}") == 1
        assert "WARNING" in server.log
        (shown,) = server.get("/pages/overview").json["datasets"]
        assert shown["notes"] == [said]
