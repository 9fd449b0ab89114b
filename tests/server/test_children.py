"""Processes that a server starts know nothing that they do not need."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from owl_stream import children
from tests.support.datasets import small_dataset
from tests.support.http import get
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess

TOKEN = "trainer-0123456789abcdef"
SECRETS = {
    "OWL_SERVER__ACCESS__TOKENS__TRAINER": TOKEN,
    "OWL_server__access__tokens__OTHER": f"other-{TOKEN}",
    "OWL_TOKEN": f"own-{TOKEN}",
    "HF_TOKEN": f"hub-{TOKEN}",
    "AWS_SECRET_ACCESS_KEY": f"cloud-{TOKEN}",
    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=trace-{TOKEN}",
    "UNHEARD_OF": f"any-{TOKEN}",
}


class Witness:
    """Looks at the environments of a process's descendants until it is told to stop, by what they run."""

    def __init__(self) -> None:
        self.seen: dict[str, set[bytes]] = {"owl_stream.engine.worker": set(), "multiprocessing": set()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            for process in _descendants(os.getpid()):
                with suppress(OSError):
                    command = (process / "cmdline").read_bytes()
                    for kind, environments in self.seen.items():
                        if kind.encode() in command:
                            environments.add((process / "environ").read_bytes())


def _descendants(pid: int) -> list[Path]:
    found: list[Path] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [Path("/proc") / child, *_descendants(int(child))]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process's environment as a file")
def test_fault_141_no_child_of_a_server_has_a_token_in_its_environment(tmp_path: Path) -> None:
    """Neither workers nor indexing processes; the server itself takes the tokens, and the data is served."""
    config = small_dataset(tmp_path, samples=80, shards=4, server={"workers": 2})
    given = {**SECRETS, "OMP_NUM_THREADS": "1", "LC_TIME": "C"}
    with Witness() as witness, ServerProcess(config, env=given) as server:
        for token in (TOKEN, f"other-{TOKEN}"):
            headers = {"Authorization": f"Bearer {token}"}
            assert get(server.url + "/v1/datasets/train/stream", headers).status == 200
        assert get(server.url + "/v1/datasets", {"Authorization": f"Bearer own-{TOKEN}"}).status == 401
    for kind, environments in witness.seen.items():
        # A process that has not begun its own program yet, or has ended, has its parent's environment or none.
        assert {environment for environment in environments if b"OMP_NUM_THREADS=1" in environment}, kind
        for environment in environments:
            assert TOKEN.encode() not in environment, kind


READING = """
import os, subprocess, sys
from owl_stream import children
children.withhold()
children.withhold()
assert os.environ["HF_TOKEN"] and os.environ["OWL_TOKEN"]
print(subprocess.run(["env"], capture_output=True, text=True).stdout)
children.forget_tokens()
assert os.environ["HF_TOKEN"]
assert not [name for name in os.environ if "TOKENS" in name.upper() or name == "OWL_TOKEN"]
assert "HF_TOKEN" not in children.environment()
"""


def test_fault_141_a_process_of_our_own_hands_nothing_on_and_forgets_tokens() -> None:
    """Also where a library starts a process and says nothing of its environment."""
    given = {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    command = [sys.executable, "-c", READING]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert TOKEN not in done.stdout
    assert {"LC_ALL=C", f"PYTHONPATH={ROOT}", f"PATH={os.environ['PATH']}"} <= set(done.stdout.splitlines())


def test_fault_141_a_process_of_somebody_else_keeps_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a server in a process of theirs may start a second one."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    children.forget_tokens()
    assert all(os.environ[name] == value for name, value in SECRETS.items())
    assert not set(SECRETS) & set(children.environment())
