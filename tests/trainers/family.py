"""Runs trainers as forks of one process, for importing their libraries is what takes time.

`python -m tests.trainers.family URL DIRECTORY` leaves in DIRECTORY, for each library, what two ranks were trained on
until SIGKILL struck both (`NAME/killed`), what one process was that went on from their checkpoint (`NAME/resumed`), and
what an undisturbed run was (`NAME/undisturbed`). Then it runs the two libraries' snippets of docs/trainers.md,
and what the mixin must refuse.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.trainers import accelerated, hugging_face, snippets
from tests.trainers.model import Log

KILL_AT = (1, 3)
"""Epoch and step. The checkpoint before it, two steps ago, lies in the middle of that epoch."""


def fork(work: Callable[[], None], **environ: str) -> int:
    """Run `work` in a fork; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(environ)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended_by(pid: int) -> int:
    """How a fork ended: 0, its code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_ranks(work: Callable[[], None], world_size: int = 2) -> list[int]:
    """Run `work` in the ranks of one group; returns how they ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    pids = [fork(work, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(world_size)]
    return [ended_by(pid) for pid in pids]


def main(url: str, directory: Path) -> None:
    """All runs of both libraries."""
    for name, train, resumed in (
        ("hugging_face", hugging_face.train, lambda *run: hugging_face.train(*run, workers=2)),
        ("accelerate", accelerated.train, accelerated.train),
    ):
        place = directory / name
        ends = in_ranks(lambda: train(url, place / "checkpoints", Log(place / "killed", KILL_AT)))  # noqa: B023
        assert ends == [-signal.SIGKILL, -signal.SIGKILL], (name, ends)
        for run, which, checkpoints in (("resumed", resumed, "checkpoints"), ("undisturbed", train, "others")):
            log = place / run
            pid = fork(lambda: which(url, place / checkpoints, Log(log, None)))  # noqa: B023
            assert ended_by(pid) == 0, (name, run)
    for section in ("Hugging Face Trainer", "Accelerate"):
        place = directory / section
        place.mkdir()
        pid = fork(lambda: _snippet(section, url, place))  # noqa: B023
        assert ended_by(pid) == 0, section
    assert in_ranks(lambda: accelerated.be_refused(url)) == [0, 0]
    assert ended_by(fork(lambda: hugging_face.be_refused(url, directory / "refused"))) == 0


def _snippet(section: str, url: str, directory: Path) -> None:
    os.chdir(directory)
    snippets.run(section, url)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
