"""How long the first batch takes after a resume, at step 0 and at 95 % of an epoch of ten million samples.

    python -m benchmarks.resume                                          the demo's pictures, 0.6 GB of index
    python -m benchmarks.resume --shards 'data/*.tar' --tokenizer tokenizer.json

The index is synthetic, in the real on-disk format: hard links to the given shards, and for each link a table that lists
the shard's real samples over and over, in random order. So every one of the ten million entries is a sample that can be
read, decoded and checked. A real server in a process of its own serves it. A resume is a new dataset, `load_state_dict`
and the first batch, through sockets; the two places take turns, each time in another epoch, so that no plan and no
frame is remembered. The page cache is warm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from owl_client import OwlStreamDataset
from owl_stream.assemble.fingerprint import cost_recipe_digest
from owl_stream.assemble.measure import Measurer
from owl_stream.assemble.tokenizer import load_tokenizer
from owl_stream.config import DatasetConfig
from owl_stream.demo.dataset import build_demo_dataset
from owl_stream.layouts import settle_recipe
from owl_stream.shards import build_index, find_shards
from owl_stream.shards.tables import CostTable, IndexPlace, ScanTable, Tables, load_tables, save_tables

MAX_RATIO = 1.5
LINKS = 100
WARM_UPS = 5
PART = 0.95


def write_aliased_index(directory: Path, shards: Sequence[str], tokenizer: str, samples: int) -> Path:
    """Links, tables that repeat their samples, and a configuration; returns the configuration's path.

    No rows are kept: they are by number in a shard, and here a number is not where a sample lies.
    """
    dataset: dict[str, Any] = {
        "shards": [str(Path(shard).absolute()) for shard in shards],
        "tokenizer": str(Path(tokenizer).absolute()),
        "keep_rows": False,
    }
    config = DatasetConfig.model_validate(dataset)
    recipe = settle_recipe(config)
    vocabulary = load_tokenizer(recipe.tokenizer, directory, recipe.make_layout().tokens)
    recipe_digest = cost_recipe_digest(recipe, vocabulary)
    found = find_shards(config.shards, directory)
    measure = Measurer(recipe, vocabulary)
    build_index(found, measure, recipe_digest, directory, processes=0, on_bad_sample="mask").close()
    place = IndexPlace(directory)
    originals = [load_tables(place, shard, recipe_digest) for shard in found]
    links = []
    for number in range(LINKS):
        links.append(directory / f"link-{number:03d}.tar")
        os.link(found[number % len(found)].path, links[-1])
    for number, link in enumerate(find_shards([str(link) for link in links], directory)):
        original = originals[number % len(found)]
        assert original is not None
        save_tables(place, link, recipe_digest, *_repeated(original, samples // LINKS, number))
    path = directory / "owl-stream.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"train": {**dataset, "shards": [str(link) for link in links]}}}))
    return path


def _repeated(tables: Tables, count: int, seed: int) -> tuple[ScanTable, CostTable]:
    good = np.flatnonzero(tables.cost.measured)
    rows = good[np.random.default_rng(seed).integers(0, len(good), count)]
    return ScanTable(tables.scan.spans[rows], ()), CostTable(tables.cost.costs[rows], ())


@contextmanager
def served(config: Path) -> Iterator[tuple[str, float]]:
    """A server of the configuration; its address, and the seconds it took to be ready."""
    command = [sys.executable, "-m", "owl_stream.cli", "serve", "--config", str(config), "--port", "0"]
    began = time.perf_counter()
    with (config.parent / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--index-dir", str(config.parent)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            if match := re.search(r"listens on (http://\S+)", line):
                url = match[1]
            if line.startswith("ready:"):
                break
        yield url, time.perf_counter() - began
    finally:
        process.terminate()
        process.communicate()


def first_batch_s(url: str, state: dict[str, Any]) -> float:
    """Seconds from nothing to the first batch behind `state`."""
    began = time.perf_counter()
    dataset = OwlStreamDataset(url, dtype=torch.uint8)
    dataset.load_state_dict(state)
    batch = next(iter(dataset))
    seconds = time.perf_counter() - began
    assert (batch.meta.epoch, batch.meta.step) == (state["epoch"], state["step"])
    dataset.close()
    return seconds


def measure(url: str, resumes: int) -> dict[str, Any]:
    """First batches at both places, in turn."""
    dataset = OwlStreamDataset(url)
    state, steps = dataset.state_dict(), dataset.steps_per_epoch
    places = {"step 0": 0, f"{PART:.0%} of the epoch": int(steps * PART)}
    times: dict[str, list[float]] = {name: [] for name in places}
    for epoch in range(WARM_UPS + resumes):
        for name, step in places.items():
            times[name].append(first_batch_s(url, {**state, "epoch": epoch, "step": step}) * 1000)
    kept = {name: values[WARM_UPS:] for name, values in times.items()}
    medians = [float(np.median(values)) for values in kept.values()]
    return {
        "steps_per_epoch": steps,
        "first_batch_ms": {
            name: {"step": places[name], **dict(zip(("p10", "median", "p90"), _quantiles(values), strict=True))}
            for name, values in kept.items()
        },
        "ratio": medians[1] / medians[0],
    }


def _quantiles(values: list[float]) -> list[float]:
    return [float(value) for value in np.quantile(values, (0.1, 0.5, 0.9))]


def show(report: dict[str, Any]) -> None:
    """Print the result as a table."""
    print(f"{report['samples']:,} samples, {report['steps_per_epoch']:,} steps an epoch; ", end="")
    print(f"the server was ready after {report['ready_s']:.1f} s\n")
    print(f"{'first batch, ms':24}{'step':>10}{'p10':>8}{'median':>8}{'p90':>8}")
    for name, row in report["first_batch_ms"].items():
        print(f"{name:24}{row['step']:>10}{row['p10']:>8.1f}{row['median']:>8.1f}{row['p90']:>8.1f}")
    print(f"\nratio of the medians: {report['ratio']:.2f} (at most {MAX_RATIO})")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="resume", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", nargs="+", help="shards to alias; needs --tokenizer")
    parser.add_argument("--tokenizer", help="a tokenizers file")
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--resumes", type=int, default=40, help="at each of the two places")
    parser.add_argument("--directory", type=Path, help="on the shards' file system; a temporary one by default")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results as JSON too")
    chosen = parser.parse_args(argv)
    if bool(chosen.shards) != bool(chosen.tokenizer):
        parser.error("--shards and --tokenizer go together")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    chosen = arguments(argv)
    report: dict[str, Any] = {
        "benchmark": "resume",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}, torch {torch.__version__}",
        "method": f"{chosen.resumes} resumes at each place, in turn, after {WARM_UPS} of each that do not count",
        "samples": chosen.samples,
    }
    print(f"{report['machine']}\n{report['method']}")
    with tempfile.TemporaryDirectory(dir=chosen.directory) as temporary:
        directory = Path(temporary)
        shards, tokenizer = chosen.shards, chosen.tokenizer
        if not shards:
            demo = build_demo_dataset(directory / "demo")
            shards, tokenizer = [str(demo.parent / "shards")], str(demo.parent / "tokenizer.json")
        config = write_aliased_index(directory, shards, tokenizer, chosen.samples)
        with served(config) as (url, ready_s):
            report |= {"ready_s": ready_s, **measure(url, chosen.resumes)}
    show(report)
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
