"""What tests of assembly share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from owl_stream.assemble import Dataset


@pytest.fixture
def opened() -> Iterator[list[Dataset]]:
    """Datasets to close at the end of a test."""
    datasets: list[Dataset] = []
    yield datasets
    for dataset in datasets:
        dataset.close()
