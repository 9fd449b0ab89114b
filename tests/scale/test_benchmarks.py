"""The benchmarks of scale, at a size that tests have time for: what they measure is real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ceiling
from benchmarks.balance import DrawnTable
from benchmarks.contender import ROOT
from benchmarks.device import FAMILIES
from benchmarks.hf_processor import ProcessorRecipe
from benchmarks.model_files import write_model
from benchmarks.padding import SyntheticTable, as_rows
from benchmarks.plan_scale import MAX_BYTES, benchmark
from benchmarks.resume import write_aliased_index
from benchmarks.synthetic import imaginary_shards, open_imaginary_index, write_imaginary_tables
from benchmarks.usual import recipe_of
from benchmarks.workload import IMAGE_SIZE, Kind, Workload
from owl_client.device import finish
from owl_stream.assemble import open_dataset
from owl_stream.config import DatasetConfig, load_config
from owl_stream.plan import Table
from owl_stream.shards import TOWER_POOLS
from owl_stream.shards.cost import PACKED
from tests.support.assembly import Made, reopen, run_at, run_job
from tests.support.datasets import small_dataset
from tests.support.tars import chat, picture, write_shard
from tests.support.tokenizer import small_tokenizer

SMALL, LARGE = 20_000, 2_000_000
COST_COLUMN_MB = LARGE * PACKED.itemsize / (1 << 20)


def test_planning_holds_no_column_in_memory(tmp_path: Path) -> None:
    """A hundred times the samples take next to no more memory to open and plan, and at most 64 bytes each on disk."""
    small, large = (benchmark(tmp_path / str(samples), samples, 4, steps=3) for samples in (SMALL, LARGE))
    for stage in ("open", "plan"):
        assert large[stage]["peak_resident_mb"] - small[stage]["peak_resident_mb"] < COST_COLUMN_MB / 2, stage
    assert large["bytes_a_sample"] <= MAX_BYTES
    assert {case["window_rows"] for case in large["plan"]["cases"]} == {256, 8192}


def test_the_device_benchmark_finds_the_cpus_pixels_for_every_family(tmp_path: Path) -> None:
    """Without a GPU it says what it leaves out, and measures the rest."""
    report = tmp_path / "report.json"
    options = ["--device", "cpu", "--quick", "--batch-mb", "1", "--json", str(report)]
    command = [sys.executable, "-m", "benchmarks.device", *options]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(report.read_text())
    assert found["equality"].keys() == FAMILIES.keys()
    assert max(found["equality"].values()) == 0
    assert said.count("not measured: needs a GPU") == 3
    assert [row["load"] for row in found["idle"]] == [0, 0.5, 1]
    assert found["leak"]["batches"] == 100


def test_a_synthetic_index_is_one_that_opens_and_says_what_was_written(tmp_path: Path) -> None:
    """No shard is there to be measured, so opening it at all shows that its tables are taken for whole."""
    shards = imaginary_shards(tmp_path, 1000, 3)
    assert list(write_imaginary_tables(tmp_path, shards, 1000)) == [334, 668, 1000]
    with open_imaginary_index(tmp_path, shards) as index:
        costs = index.costs(np.arange(1000))
        assert (index.samples, index.pool_size("image")) == (1000, int((costs.units > 0).sum()))
        images = index.pool_ids("image", np.arange(index.pool_size("image")))
        assert (images == np.flatnonzero(costs.units)).all()


def test_every_entry_of_an_aliased_index_is_a_sample_that_can_be_read(tmp_path: Path) -> None:
    """Batches from anywhere in it are assembled and no row is masked: each entry names bytes with their digest."""
    data = small_dataset(tmp_path / "data").parent
    (tmp_path / "alias").mkdir()
    tars = [str(path) for path in sorted(data.glob("*.tar"))]
    config = load_config(write_aliased_index(tmp_path / "alias", tars, str(data / "tokenizer.json"), 20_000))
    dataset = open_dataset("train", config.datasets["train"], config.base, tmp_path / "alias", processes=0)
    try:
        assert dataset.samples == 20_000
        last = dataset.steps_per_epoch - 1
        for step in (0, int(last * 0.95), last):
            rows = run_job(dataset, dataset.job(3, step, 0, 0, 1, 8)).rows
            assert {row.status for row in rows} == {"ok"}
    finally:
        dataset.close()


@pytest.mark.parametrize("kind", ["plain", "cut"])
def test_the_ceiling_and_the_usual_loader_make_the_crops_that_a_batch_holds(tmp_path: Path, kind: Kind) -> None:
    """Bit for bit those of an assembled batch with our kernels; the usual ones make as many, in floats, and near."""
    samples = [
        (f"{n:06}", {"jpg": picture(*size, n), "json": chat(("<|image|>What?", f"Owl {n}."))})
        for n, size in enumerate([(500, 375), (375, 500), (640, 200)])
    ]
    write_shard(tmp_path / "photographs-00.tar", samples)
    workload = Workload(kind, tmp_path, small_tokenizer(tmp_path / "tokenizer.json"))
    vision = workload.settings["vision"]
    served = reopen(tmp_path, shards=("photographs-*.tar",), global_batch_size=4, max_length=4096, **vision)
    made = run_at(served, 0)
    served.close()
    crops = {row.key: made.crops(number) for number, row in enumerate(made.rows) if row.key}
    ceiling._load(workload)
    (decoding,) = ceiling._here
    assert decoding.run(0, True) == workload.rows
    ours, usual = recipe_of(workload, "ours"), recipe_of(workload, "usual")
    for number, (key, sample) in enumerate(samples):
        expected = crops[key]
        assert len(expected) > 1 or kind == "plain"
        assert np.array_equal(decoding.memory[0, number, : len(expected)], expected)
        assert np.array_equal(ours.row(sample).crops.numpy(), expected)
        floats = usual.row(sample).crops.numpy()
        assert (floats.dtype, floats.shape) == (np.float32, expected.shape)
        assert np.abs((floats + 1) / 2 * 255 - expected).mean() < 2
    batch = usual.batch([usual.row(sample) for _, sample in samples])
    assert batch["pixel_values"].shape == (sum(map(len, crops.values())), 3, IMAGE_SIZE, IMAGE_SIZE)
    assert batch["media_offset"][-1, -1].tolist() == [
        len(batch["pixel_values"]) - len(expected),
        len(batch["pixel_values"]),
    ]
    ceiling._here.clear()


def test_the_ceiling_and_the_processor_make_the_patches_that_a_batch_holds(tmp_path: Path) -> None:
    """The ceiling's bit for bit; the model's own processor makes the same ids and grids, and pixels near."""
    sizes = [(500, 375), (375, 500), (640, 200)]
    samples = [
        (f"{n:06}", {"jpg": picture(*size, n), "json": chat(("<|image|>What?", f"Owl {n}."))})
        for n, size in enumerate(sizes)
    ]
    write_shard(tmp_path / "photographs-00.tar", samples)
    workload = Workload("native", tmp_path, small_tokenizer(tmp_path / "tokenizer.json"))
    write_model(workload.model, workload.tokenizer)
    config = DatasetConfig(**workload.settings, global_batch_size=3, modality="off")
    served = open_dataset("train", config, tmp_path, tmp_path / "index", processes=0)
    made = run_job(served, served.job(0, 0, 0, 0, 1, 3))
    served.close()
    recipe = ProcessorRecipe(workload)
    order = [int(row.key) for row in made.rows]
    batch = recipe.batch([recipe.sample(samples[number][1]) for number in order])
    for name in ("input_ids", "attention_mask", "image_grid_thw", "mm_token_type_ids"):
        assert np.array_equal(batch[name].numpy(), made.tensors[name]), name
    how = next(entry.normalise for entry in workload.recipe().make_layout().schema if entry.name == "pixel_values")
    assert how is not None
    finished = finish(torch.from_numpy(made.tensors["pixel_values"].copy()), torch.float32, how)
    assert (finished - batch["pixel_values"]).abs().mean() < 0.02

    ceiling._load(workload)
    (decoding,) = ceiling._here
    decoding.run(0, True)
    drawn = [decoding.memory[0, n, : high * wide] for n, (_, high, wide) in _in_file_order(order, made)]
    ordered = np.concatenate([drawn[number] for number in order])
    assert np.array_equal(ordered, made.tensors["pixel_values"])
    ceiling._here.clear()


def _in_file_order(order: list[int], made: Made) -> list[tuple[int, tuple[int, ...]]]:
    return sorted(zip(order, map(tuple, made.tensors["image_grid_thw"].tolist()), strict=True))


def test_tables_of_imagined_samples_agree_with_themselves() -> None:
    """Pools, their ids and the costs behind them: every sample is in the pool of the towers that it calls."""
    drawn = DrawnTable(as_rows(SyntheticTable(500).costs(np.arange(500) * 7 % 500).sizes()))
    tables: list[Table] = [SyntheticTable(1000), drawn]
    for table in tables:
        seen = []
        for pool in TOWER_POOLS:
            ids = table.pool_ids(pool, np.arange(table.pool_size(pool)))
            assert table.costs(ids).in_pool(pool).all()
            assert table.pool_counts_by_shard(pool).sum() == len(ids)
            seen += ids.tolist()
        assert sorted(seen) == list(range(table.pool_size("all")))
        assert 0 < table.pool_size("text") < table.pool_size("image")
    costs = drawn.costs(np.arange(500))
    assert (costs.vision_tokens % 729 == 0).all()
    assert costs.vision_tokens.max() == 6 * 729
