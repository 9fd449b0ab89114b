"""Batches of Qwen-VL whose padding looks like something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from owl_stream.config import DatasetConfig
from owl_stream.layouts import EncodedRow, Layout
from owl_stream.layouts.recipe import settle_recipe
from tests.layouts.batches import RUBBISH
from tests.support.families import Family, make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny model's files."""
    return make_family("qwen2_5_vl", tmp_path_factory.mktemp("padding"))


@pytest.fixture(scope="module")
def qwen(family: Family) -> Layout:
    """Its layout."""
    config = DatasetConfig(shards=["none.tar"], model=str(family.directory), max_length=64, global_batch_size=2)
    return settle_recipe(config, Path()).make_layout()


@pytest.mark.parametrize("placeholder", ["<|image_pad|>", "<|video_pad|>"])
def test_padding_with_a_placeholder_is_padding(family: Family, qwen: Layout, placeholder: str) -> None:
    """A model may be padded with it, as its attention mask leaves padding out: no picture stands there."""
    pad_id = family.tokenizer.convert_tokens_to_ids(placeholder)
    rows = [EncodedRow(np.arange(length), ((0, length),), np.array([], np.int64), ()) for length in (3, 5)]
    lengths = qwen.lengths([row.size for row in rows])
    needed = [entry for entry in qwen.schema if not entry.optional]
    shapes = {entry.name: [lengths[dim] if isinstance(dim, str) else dim for dim in entry.dims] for entry in needed}
    batch = {name: np.full(shape, RUBBISH, np.int64) for name, shape in shapes.items()}
    qwen.collate(rows, pad_id, batch)
    assert (batch["input_ids"][0, 3:] == pad_id).all()
    assert not batch["mm_token_type_ids"].any()
    assert not batch["position_ids"][:, 0, 3:].any()
    report = qwen.check(batch)
    assert (report.rows_with_media, report.text_only_rows, report.units) == (0, 2, 0)
