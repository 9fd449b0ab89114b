"""An epoch's end is honest: over all ranks every sample of the manifest is accounted for once, and `end` says as much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from owl_client import OwlStreamDataset
from owl_stream.wire import BatchHeader, End, RowInfo, Totals, parse_frames
from tests.faults.conftest import dataset_of
from tests.support.damage import spoil_pixels
from tests.support.datasets import small_dataset
from tests.support.http import get
from tests.support.server import ServerProcess

STREAM = "/v1/datasets/train/stream"
SIZES = [(1, 4), (1, 1), (2, 2), (2, 1), (4, 1)]
