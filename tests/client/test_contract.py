"""What a real server sends of either layout is what its `hello` promised, with damaged samples and last steps too."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from owl_client import OwlStreamDataset
from tests.client.peers import NO_WAIT
from tests.support.datasets import mixed_samples
from tests.support.images import damaged_jpeg
from tests.support.server import ServerProcess
from tests.support.tars import chat, picture, write_shard
from tests.support.tokenizer import small_tokenizer


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Samples with and without pictures, one of them broken, for both layouts and both ways of mixing."""
    broken = ("broken", {"json": chat(("<|image|>What?", "b")), "jpg": damaged_jpeg(picture(200, 150, 7))})
    write_shard(tmp_path / "a.tar", [*mixed_samples(13), broken])
    small_tokenizer(tmp_path / "tokenizer.json")
    base = {"shards": ["*.tar"], "tokenizer": "tokenizer.json", "vision": {"image_size": 28}, "max_length": 512}
    datasets = {
        f"{layout[5:]}-{modality}": {**base, "layout": layout, "modality": modality, "global_batch_size": 4}
        for layout in ("owl3-240728", "owl3-241101")
        for modality in ("pure", "off")
    }
    path = tmp_path / "owl.yaml"
    path.write_text(yaml.safe_dump({"datasets": datasets, "server": {"workers": 1}}))
    return path


def test_every_batch_of_a_real_server_keeps_its_promise(config: Path) -> None:
    """None is refused: whole epochs come without asking twice, batches without pixels among them."""
    with ServerProcess(config) as server:
        for name in ("240728-pure", "240728-off", "241101-pure", "241101-off"):
            dataset = OwlStreamDataset(server.url, name, backoff=NO_WAIT, micro_batch_size=2, rank=0, world_size=1)
            batches = list(dataset)
            assert dataset.stats().reconnects == 0
            assert len(batches) == len(dataset)
            assert {"pixel_values" in batch for batch in batches} == {True, False}
            crops = [len(batch.get("pixel_values", ())) for batch in batches]
            assert [batch.meta.units for batch in batches] == crops
            assert [batch.meta.vision_tokens for batch in batches] == [count * (28 // 14) ** 2 for count in crops]
            assert {row.status for batch in batches for row in batch.meta.rows} > {"ok"}
