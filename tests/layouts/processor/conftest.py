"""Models without a layout of ours, and data sets that are served for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layouts.processor.stage import Sample, Stage, open_stage, samples
from tests.support.families_processor import BY_PROCESSOR, make_processor_family
from tests.support.tars import write_shard


@pytest.fixture(scope="module", params=BY_PROCESSOR)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Each family over the same samples, in steps that mix all kinds of rows."""
    directory = tmp_path_factory.mktemp(request.param)
    family = make_processor_family(request.param, directory / "model")
    found = samples()
    write_samples(directory, found)
    dataset = open_stage(directory, modality="off")
    yield Stage(family, dataset, found, directory)
    dataset.close()


def write_samples(directory: Path, found: dict[str, Sample]) -> None:
    """A shard of them."""
    members = []
    for key, (messages, files) in found.items():
        names = [f"{number}.png" for number in range(len(files))]
        record = json.dumps({"messages": messages, "images": names}).encode()
        members.append((key, {"json": record, **dict(zip(names, files, strict=True))}))
    write_shard(directory / "s-000.tar", members)
