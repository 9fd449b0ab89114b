"""`OwlStreamDataset.local`: batches of a configuration with no server to start, by one that ends with the trainer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import trustme

from owl_client import OwlStreamDataset
from owl_stream.engine.cores import usable_cores
from owl_stream.errors import ConfigError
from tests.client.peers import NO_WAIT
from tests.support.datasets import small_dataset
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess


def test_its_batches_are_those_of_a_server(tmp_path: Path) -> None:
    """The same tensors and states, and it can be left and gone on with."""
    config = small_dataset(tmp_path, samples=16, server={"workers": 1})
    with ServerProcess(config) as server:
        served = list(OwlStreamDataset(server.url, backoff=NO_WAIT))
    dataset = OwlStreamDataset.local(config, backoff=NO_WAIT)
    local = list(dataset)
    assert [batch.meta.state for batch in local] == [batch.meta.state for batch in served]
    assert all(torch.equal(mine["input_ids"], theirs["input_ids"]) for mine, theirs in zip(local, served, strict=True))
    again = OwlStreamDataset.local(config, backoff=NO_WAIT)
    again.load_state_dict(served[1].meta.state)
    assert next(iter(again)).meta.state == served[2].meta.state


def test_a_configuration_of_a_cluster_serves_one_machine_too(tmp_path: Path) -> None:
    """Its address, its certificate for another name and its tokens are for others."""
    authority, pem = trustme.CA(), tmp_path / "server.pem"
    authority.issue_cert("data.example.org").private_key_and_cert_chain_pem.write_to_path(pem)
    tls = {"certificate": str(pem), "key": str(pem), "client_ca": str(pem)}
    access = {"tokens": {"trainer": "t" * 32}}
    server = {"workers": 1, "host": "0.0.0.0", "port": 1, "tls": tls, "access": access}
    assert list(OwlStreamDataset.local(small_dataset(tmp_path, samples=8, server=server), backoff=NO_WAIT))


@pytest.mark.parametrize(
    ("ranks", "workers", "expected"), [("2", None, max(1, usable_cores() // 2)), ("2", 3, 3), ("1000", None, 1)]
)
def test_the_ranks_of_a_machine_share_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: str, workers: int | None, expected: int
) -> None:
    """As many workers as each rank has cores under torchrun, unless the file says how many."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    config = small_dataset(tmp_path, samples=8, server={} if workers is None else {"workers": workers})
    before = set(psutil.Process().children())
    dataset = OwlStreamDataset.local(config, backoff=NO_WAIT)
    (server,) = set(psutil.Process().children()) - before
    assert list(dataset)
    found = [child for child in server.children() if "owl_stream.engine.worker" in child.cmdline()]
    assert len(found) == expected


def test_what_cannot_be_served_is_a_configuration_error(tmp_path: Path) -> None:
    """In the server's own words."""
    with pytest.raises(ConfigError, match="expected a configuration file"):
        OwlStreamDataset.local(tmp_path / "nothing.yaml")
    config = small_dataset(tmp_path, samples=4)
    config.write_text(config.read_text().replace("train-*.tar", "gone-*.tar"))
    with pytest.raises(ConfigError, match=r"(?s)exit code 2: .*gone-\*\.tar"):
        OwlStreamDataset.local(config)


_FORKING = """
import os, sys
from owl_client import OwlStreamDataset
dataset = OwlStreamDataset.local(sys.argv[1])
if not os.fork():
    del dataset
    sys.exit()
os.wait()
print(len(list(dataset)))
"""


def test_a_fork_of_the_trainer_leaves_it_running(tmp_path: Path) -> None:
    """Such as a worker of a DataLoader, which ends before the trainer does."""
    config = small_dataset(tmp_path, samples=8, server={"workers": 1})
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client"}
    command = [sys.executable, "-c", _FORKING, str(config)]
    trained = subprocess.run(command, capture_output=True, env=environ, text=True, check=True)
    assert int(trained.stdout) > 0


_TRAINER = """
import os, sys
from owl_client import OwlStreamDataset
dataset = OwlStreamDataset.local(sys.argv[1])
batches = iter(dataset)
next(batches)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_it_ends_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves no time to say goodbye: neither server nor workers stay."""
    config = small_dataset(tmp_path, samples=8, server={"workers": 1})
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client"}
    with subprocess.Popen(
        [sys.executable, "-c", _TRAINER, str(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as trainer:
        assert trainer.stdout is not None
        assert int(trainer.stdout.readline()) == trainer.pid
        family = psutil.Process(trainer.pid).children(recursive=True)
        assert len(family) >= 2
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive
