"""Batches leave DataLoader workers through /dev/shm: a trainer is told where it is full or tiny, and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, sys, warnings
from torch.utils.data import DataLoader
from owl_client import OwlStreamLoader
from owl_stream.errors import OwlStreamError
from tests.client.peers import memory_dataset
from tests.client.world import World, keys_of

warnings.simplefilter("ignore")
kind, workers, context, layout = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
world = World(steps=4, side=int(sys.argv[5]), layout=layout)
dataset = memory_dataset(world)
options = {"multiprocessing_context": context} if workers else {}
loader = OwlStreamLoader if kind == "ours" else DataLoader
try:
    keys = keys_of(loader(dataset, batch_size=None, num_workers=workers, **options))
    said = ["", str(keys == keys_of(memory_dataset(world)))]
except (OwlStreamError, OSError) as exc:
    said = [type(exc).__name__, str(exc)]
print(json.dumps(said))
"""

TINY, READ_ONLY, NOTHING = "size=2m", "ro,size=2m", "size=4k"


def mounts() -> bool:
    """Whether this process may have mounts of its own."""
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=2m tmpfs /dev/shm"]
    try:
        return subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not mounts(), reason="needs a mount namespace: Linux, as root")


def trained(mount: str, kind: str, workers: int, context: str = "fork", **world: Any) -> list[str]:
    """A trainer's process with another /dev/shm: name and text of its error, or nothing and whether all was right."""
    arguments = [kind, str(workers), context, world.get("layout", "owl3-240728"), str(world.get("side", 500))]
    inside = f'mount -t tmpfs -o {mount} tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", inside, "sh", sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told: list[str] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(("kind", "workers", "layout"), [("torch", 2, "owl3-240728"), ("ours", 1, "owl3-241101")])
def test_fault_136_a_batch_that_does_not_fit_is_an_error_with_a_remedy(kind: str, workers: int, layout: str) -> None:
    """A real DataLoader, batches of 12 MB and 2 MB of room: never a wait for ever, never torch's bare error."""
    name, text = trained(TINY, kind, workers, layout=layout)
    assert name == "ConfigError"
    assert "/dev/shm, with " in text
    assert "bytes free of 2097152: no room for a batch of 12" in text
    assert "--shm-size" in text
    assert "num_workers=0" in text


@pytest.mark.parametrize(("context", "layout"), [("fork", "owl3-241101"), ("spawn", "owl3-240728")])
def test_what_fits_comes_through(context: str, layout: str) -> None:
    """Small batches through 2 MB of room are the same bits, empty tensors of a ragged batch included."""
    assert trained(TINY, "torch", 2, context, layout=layout, side=2) == ["", "True"]


@pytest.mark.parametrize("mount", [READ_ONLY, NOTHING])
def test_fault_136_the_remedy_works(mount: str) -> None:
    """Without workers no shared memory is needed at all."""
    assert trained(mount, "torch", 0) == ["", "True"]


@pytest.mark.parametrize("mount", [READ_ONLY, NOTHING])
def test_fault_136_no_shared_memory_at_all_with_our_loader(mount: str) -> None:
    """The queues of a DataLoader need some before any batch does."""
    name, text = trained(mount, "ours", 1)
    assert name == "ConfigError"
    assert "/dev/shm" in text
    assert "num_workers=0" in text
