"""What a trainer sets for its own tensors (a default device, a default dtype) changes nothing of ours.

Fault 120 of docs/faults.md.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from owl_client import Batch, OwlStreamDataset
from owl_client.batch import Raw
from tests.client.peers import memory_dataset
from tests.client.world import CLIP, PIXELS, World, key_of, keys_of

WORLD = World(steps=3, videos=True)


PIXELS_BY_NAME = {"pixel_values": PIXELS, "pixel_values_videos": CLIP}


@contextmanager
def default_device(name: str) -> Iterator[None]:
    """`torch.set_default_device`, undone."""
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """`torch.set_default_dtype`, undone."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "with meta": lambda: torch.device("meta"),
    "default meta": lambda: default_device("meta"),
    "default float64": lambda: default_dtype(torch.float64),
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "inference mode": torch.inference_mode,
}


@pytest.fixture(params=SETTINGS.values(), ids=list(SETTINGS))
def setting(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[Any]]:
    """One thing that a trainer may have set."""
    made: Callable[[], AbstractContextManager[Any]] = request.param
    return made


def plain(**options: Any) -> list[tuple[int, int, int, str]]:
    """The batches where nothing is set."""
    return keys_of(memory_dataset(WORLD, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_batches_are_the_same_bits(setting: Callable[[], AbstractContextManager[Any]], dtype: torch.dtype) -> None:
    """Made, read, saved and resumed under the setting."""
    with setting():
        dataset = memory_dataset(WORLD, dtype=dtype)
        got = [*iter_some(dataset, 1)]
        resumed = memory_dataset(WORLD, dtype=dtype)
        resumed.load_state_dict(dataset.state_dict())
        got += list(resumed)
        dataset.close()
    assert all(tensor.device.type == "cpu" for batch in got for tensor in batch.values())
    assert keys_of(got) == plain(dtype=dtype)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("name", ["default float64", "default bfloat16", "inference mode"])
def test_through_workers_too(name: str) -> None:
    """Forked workers inherit what is set. (torch's own DataLoader does not work where tensors are on `meta`.)"""
    with SETTINGS[name]():
        loader = DataLoader(memory_dataset(WORLD), batch_size=None, num_workers=2, multiprocessing_context="fork")
        got = list(loader)
    assert keys_of(got) == plain()


def test_raw_pixels_are_finished_as_ever(setting: Callable[[], AbstractContextManager[Any]]) -> None:
    """`batch.to` normalises what a worker left raw."""
    ready = next(iter(memory_dataset(WORLD)))
    raw = next(iter(memory_dataset(WORLD, dtype=torch.uint8)))
    with setting():
        finished = Batch(raw, raw.meta, Raw(torch.float32, PIXELS_BY_NAME)).to("cpu")
    assert key_of(finished) == key_of(ready)


def test_datasets_are_copied_and_sent_under_it(setting: Callable[[], AbstractContextManager[Any]]) -> None:
    """As for spawned workers, and by trainers that copy their data."""
    with setting():
        dataset = memory_dataset(WORLD)
        list(iter_some(dataset, 2))
        dataset.close()
        copies = [copy.deepcopy(dataset), copy.copy(dataset)]
        cells = pickle.loads(pickle.dumps(dataset._position.cursor))
    assert [each.state_dict()["step"] for each in copies] == [2, 2]
    assert cells.step == 2


def iter_some(dataset: OwlStreamDataset, count: int) -> Iterator[Batch]:
    """The first batches of a `for`."""
    for number, batch in enumerate(dataset, 1):
        yield batch
        if number == count:
            return
