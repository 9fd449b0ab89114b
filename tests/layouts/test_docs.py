"""What docs/layouts.md and docs/owl3.md show, run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from owl_client import OwlStreamDataset
from tests.conftest import ROOT
from tests.layouts.llava import llava_model
from tests.support.tars import chat, picture, write_shard

SNIPPETS = {
    page: re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    for page in ("layouts.md", "owl3.md")
}


@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_of_the_page_run(page: str) -> None:
    """Each block of Python stands on its own and holds its own assertions."""
    assert SNIPPETS[page], "a page that lost its example has nothing to run"
    for snippet in SNIPPETS[page]:
        exec(compile(snippet, f"docs/{page}", "exec", dont_inherit=True), {})


def test_the_small_layout_of_the_page_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `layout: MODULE:CLASS`, without a server to start: a picture is a square, and a token for each patch."""
    (tmp_path / "squares.py").write_text(SNIPPETS["layouts.md"][0])
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'client'}:{tmp_path}")
    llava_model(tmp_path / "model")
    picked = {"json": chat(("<|image|>What is it?", "An owl.")), "jpg": picture(40, 30)}
    write_shard(tmp_path / "a.tar", [("a", picked), ("b", {"json": chat(("2 + 2?", "4."))})])
    dataset = {"shards": ["a.tar"], "model": "model", "layout": "squares:SquareLayout", "vision": {"side": 42}}
    path = tmp_path / "owl-stream.yaml"
    config = {**dataset, "global_batch_size": 2, "modality": "off"}
    path.write_text(yaml.safe_dump({"datasets": {"train": config}, "server": {"workers": 1}}))
    with OwlStreamDataset.local(path) as served:
        (batch,) = served
    assert batch["pixel_values"].shape == (1, 3, 42, 42)
    (with_picture,) = [at for at, row in enumerate(batch.meta.rows) if row.key == "a"]
    image_id = json.loads((tmp_path / "model" / "config.json").read_text())["image_token_index"]
    placeholders = (batch["input_ids"] == image_id).sum(1).tolist()
    assert placeholders == [9 if at == with_picture else 0 for at in range(2)]
