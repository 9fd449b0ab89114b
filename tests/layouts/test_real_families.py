"""The real multi-image samples, for every family: each tensor against the model's own processor, at every deal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from owl_client.device import finish
from owl_stream.assemble import Dataset, open_dataset
from owl_stream.config import DatasetConfig
from tests.support.assembly import Made, run_job
from tests.support.families import FAMILIES, Family, as_parts, make_family
from tests.support.tars import Conversation, read_conversations

pytestmark = pytest.mark.long

SAMPLES, ROWS = 145, 8
OURS = {"labels", "position_ids"}
"""What no processor returns."""

LEAST_DB = 45.0


@dataclass(frozen=True)
class Real:
    """A model, the samples by key, and data sets of both resizers."""

    family: Family
    samples: dict[str, Conversation]
    exact: Dataset
    quick: Dataset


@pytest.fixture(scope="module", params=FAMILIES)
def real(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Each family over the same samples."""
    directory = tmp_path_factory.mktemp(request.param)
    family = make_family(request.param, directory / "model")

    def opened(resize: str) -> Dataset:
        config = DatasetConfig(
            shards=(str(shared_data / "real"),),
            model="model",
            resize=resize,  # type: ignore[arg-type] # one of its literals
            global_batch_size=ROWS,
            max_length=1 << 20,
            max_image_bytes=1 << 30,
        )
        return open_dataset("train", config, directory, directory / "index", processes=0)

    exact, quick = opened("pillow"), opened("simd")
    samples: dict[str, Conversation] = {}
    for shard in (shared_data / "real").glob("*.tar"):
        samples |= read_conversations(shard)
    yield Real(family, samples, exact, quick)
    exact.close()
    quick.close()


def _made(dataset: Dataset, step: int, rank: int, world_size: int) -> tuple[Made, dict[str, torch.Tensor]]:
    made = run_job(dataset, dataset.job(0, step, 0, rank, world_size, ROWS // world_size))
    ways = {entry.name: entry.normalise for entry in dataset.schema}
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in made.tensors.items()}
    return made, {
        name: tensor if (way := ways[name]) is None else finish(tensor, torch.float32, way)
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_tensor_of_every_sample_is_the_processors(real: Real, world_size: int) -> None:
    """All 145 samples: ids, masks, types and grids equal, pixels to 1e-6, labels those of prefixes."""
    seen = set()
    for step in range(real.exact.steps_per_epoch):
        for rank in range(world_size):
            made, tensors = _made(real.exact, step, rank, world_size)
            rows = [(b, row.key) for b, row in enumerate(made.header.rows) if row.status == "ok"]
            if not rows:
                continue  # a rank that only completes a last step
            if len(rows) < len(made.header.rows):
                tensors = _without_fillers(tensors, len(rows))
            keys = [key for _, key in rows]
            seen |= {*keys}
            messages = [as_parts(real.samples[key][0]) for key in keys]
            expected = real.family.batch(messages, [picture for key in keys for picture in real.samples[key][1]])
            assert set(expected) == set(tensors) - OURS
            for name, want in expected.items():
                if name == "pixel_values":
                    assert (tensors[name] - want).abs().max() <= 1e-6
                else:
                    assert torch.equal(tensors[name][:, : want.shape[1]], want), name
            if world_size == 1:
                _check_labels(real, tensors["labels"], keys)
    assert len(seen) == SAMPLES


def _without_fillers(tensors: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """Fillers come last and have no picture."""
    size = len(tensors["input_ids"])
    return {
        name: tensor[:, :rows] if name == "position_ids" else tensor[:rows] if len(tensor) == size else tensor
        for name, tensor in tensors.items()
    }


def _check_labels(real: Real, labels: torch.Tensor, keys: list[str]) -> None:
    for got, key in zip(labels, keys, strict=True):
        messages, pictures = real.samples[key]
        want = real.family.labels(as_parts(messages), pictures)
        assert got[: len(want)].tolist() == want
        assert (got[len(want) :] == -100).all()


def test_simd_is_within_45_db_on_every_picture(real: Real) -> None:
    """Of Pillow's pixels, as bytes, before the client normalises them."""
    worst = 100.0
    for step in range(real.exact.steps_per_epoch):
        exact, _ = _made(real.exact, step, 0, 1)
        quick, _ = _made(real.quick, step, 0, 1)
        for mine, theirs in _pictures(real, exact.tensors, quick.tensors):
            error = np.square(mine.astype(np.float64) - theirs).mean()
            worst = min(worst, 10 * np.log10(255**2 / max(error, 1e-9)))
    assert worst >= LEAST_DB


def _pictures(real: Real, one: dict[str, Any], two: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The pixels of each image in two batches of the same rows."""
    if "pixel_values" not in one:
        return
    grids = one.get("image_grid_thw")
    counts = [1] * len(one["pixel_values"]) if grids is None else grids.prod(axis=1).tolist()
    first = 0
    for count in counts:
        yield one["pixel_values"][first : first + count], two["pixel_values"][first : first + count]
        first += count
    assert first == len(one["pixel_values"]), real.family.name
