"""Families that have a layout of ours, served by their processors instead: two ways to one batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.layouts.processor.conftest import write_samples
from tests.layouts.processor.stage import handed_out, open_stage, samples
from tests.support.assembly import run_at
from tests.support.families import make_family
from tests.support.families_tiles import TOKENS


@pytest.mark.parametrize("name", ["internvl", "gemma3"])
def test_both_ways_give_the_same_batches(name: str, tmp_path: Path) -> None:
    """Ids, labels, masks and types to the bit, pixels to 1e-6, in the same steps."""
    make_family(name, tmp_path / "model")
    path = tmp_path / "model" / "processor_config.json"
    if name == "internvl":  # the family is saved without its processor
        path.write_text(json.dumps({"processor_class": "InternVLProcessor", "image_seq_length": TOKENS}))
    write_samples(tmp_path, samples())
    settings = {"modality": "off", "shuffle": "none", "bucket_window": 1}
    own = open_stage(tmp_path, layout=None, resize="pillow", **settings)
    asked = open_stage(tmp_path, **settings)
    assert (own.layout.name, asked.layout.name) == (name, "processor")
    assert own.quarantined == asked.quarantined == 0
    pixels = 0
    for step in range(own.steps_per_epoch):
        frames = [(dataset, run_at(dataset, step)) for dataset in (own, asked)]
        one, other = (handed_out(dataset, frame) for dataset, frame in frames)
        assert [row.key for row in frames[0][1].rows] == [row.key for row in frames[1][1].rows]
        assert one.keys() == other.keys()
        for tensor, want in one.items():
            if tensor == "pixel_values":
                assert (other[tensor] - want).abs().max() <= 1e-6
                pixels += 1
            else:
                assert torch.equal(other[tensor], want), tensor
    own.close()
    asked.close()
    assert pixels
