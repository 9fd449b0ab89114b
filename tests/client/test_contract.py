"""What a real server sends of every layout is what its `hello` promised, with damaged samples and last steps too."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from owl_client import Batch, OwlStreamDataset
from tests.client.peers import NO_WAIT
from tests.support.datasets import mixed_samples
from tests.support.images import damaged_jpeg
from tests.support.layouts import OWL, QWEN, settings_of
from tests.support.server import ServerProcess
from tests.support.tars import chat, picture, write_shard

SERVED = (OWL, "owl3-241101", QWEN)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Samples with and without pictures, one of them broken, for every layout and both ways of mixing."""
    broken = ("broken", {"json": chat(("<|image|>What?", "b")), "jpg": damaged_jpeg(picture(200, 150, 7))})
    datasets = {}
    for layout in SERVED:
        write_shard(tmp_path / f"{layout}.tar", [*mixed_samples(13, layout=layout), broken])
        for modality in ("pure", "off"):
            datasets[f"{layout}-{modality}"] = settings_of(
                tmp_path, layout, shards=[f"{layout}.tar"], modality=modality, global_batch_size=4
            )
    path = tmp_path / "owl.yaml"
    path.write_text(yaml.safe_dump({"datasets": datasets, "server": {"workers": 1}}))
    return path


def test_every_batch_of_a_real_server_keeps_its_promise(config: Path) -> None:
    """None is refused: whole epochs come without asking twice, batches without pixels among them."""
    with ServerProcess(config) as server:
        for name in (f"{layout}-{modality}" for layout in SERVED for modality in ("pure", "off")):
            dataset = OwlStreamDataset(server.url, name, backoff=NO_WAIT, micro_batch_size=2, rank=0, world_size=1)
            batches = list(dataset)
            assert dataset.stats().reconnects == 0
            assert len(batches) == len(dataset)
            assert {"pixel_values" in batch for batch in batches} == {True, False}
            assert [(batch.meta.units, batch.meta.vision_tokens) for batch in batches] == [*map(seen_in, batches)]
            assert {row.status for batch in batches for row in batch.meta.rows} > {"ok"}


def seen_in(batch: Batch) -> tuple[int, int]:
    """Units and vision tokens, from what the model is given."""
    if "mm_token_type_ids" not in batch:
        crops = len(batch.get("pixel_values", ()))
        return crops, crops * (28 // 14) ** 2
    units = sum(len(batch.get(name, ())) for name in ("image_grid_thw", "video_grid_thw"))
    return units, sum(len(batch.get(name, ())) for name in ("pixel_values", "pixel_values_videos"))
