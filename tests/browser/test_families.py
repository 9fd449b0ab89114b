"""The inspector shows every family: which token stands for which picture, what each sees, and what the tensors say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.browser.conftest import Pages
from tests.browser.frames import Served, read_batch, step_with
from tests.browser.looks import overflow, poor_contrast
from tests.support.families import FAMILIES, QWENS, make_family
from tests.support.server import ServerProcess
from tests.support.tars import chat, picture, write_shard

LONG = [pytest.param(name, marks=pytest.mark.long) for name in QWENS if name != "qwen2_5_vl"]
"""They share a module with `qwen2_5_vl`."""
SHOWN = ["qwen2_5_vl", "internvl", "gemma3", *LONG]

SAMPLES = [
    ("text", {"json": chat(("What is an owl?", "A bird."))}),
    ("one", {"json": chat(("<|image|>What?", "An owl.")), "jpg": picture(120, 90)}),
    (
        "two",
        {
            "json": chat(("First <|image|> then <|image|>?", "Both."), ("Sure?", "Yes.")),
            "0.jpg": picture(60, 200, 1),
            "1.jpg": picture(200, 60, 2),
        },
    ),
    ("late", {"json": chat(("Hello.", "Hi."), ("<|image|>What?", "An owl.")), "jpg": picture(80, 80, 3)}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A dataset for each family over the same samples."""
    directory = tmp_path_factory.mktemp("families")
    write_shard(directory / "s-0.tar", SAMPLES)
    datasets: dict[str, Any] = {}
    for name in FAMILIES:
        make_family(name, directory / name)
        datasets[name] = {"shards": ["s-*.tar"], "model": name, "global_batch_size": 4, "modality": "off"}
    config = directory / "owl-stream.yaml"
    config.write_text(yaml.safe_dump({"server": {"port": 0}, "datasets": datasets}))
    with ServerProcess(config) as server:
        yield server


def runs_of(batch: Served, row: int, placeholder: int) -> list[tuple[int, int]]:
    """Stretches [begin, end) of placeholders in a row, one for each picture."""
    at = batch.tensors["input_ids"][row] == placeholder
    edges = np.flatnonzero(np.diff(np.concatenate([[False], at, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


@pytest.mark.parametrize("family", SHOWN)
def test_the_inspector_shows_what_each_token_sees(
    pages: Pages, server: ServerProcess, family: str, tmp_path: Path
) -> None:
    """Tokens see the pictures that begin at them or before them; the repeated placeholder is a dot; all is readable."""
    placeholder = make_family(family, tmp_path).config.image_token_id
    batch = read_batch(server.url, family, step_with(server.url, family, "two"))
    page = pages.open(f"/inspect/{family}/0/0/0?world_size=1")
    for row, info in enumerate(batch.header.rows):
        pictures = {"text": 0, "one": 1, "two": 2, "late": 1}[info.key]
        runs = runs_of(batch, row, placeholder)
        assert len(runs) == pictures
        assert page.locator(f"#row-{row} .unit canvas").count() >= pictures
        seen = page.eval_on_selector_all(f"#row-{row} .token", "all => all.map(t => Number(t.dataset.visible))")
        assert len(seen) == batch.length(row)
        assert seen == sorted(seen)
        units = page.locator(f"#row-{row} .unit").count()
        if family in QWENS or family == "gemma3":
            assert units == pictures
            assert seen == [sum(begin <= t for begin, _ in runs) for t in range(len(seen))]
        assert seen[-1] == units
        assert [t for t, many in enumerate(seen) if not many] == list(range(runs[0][0] if runs else len(seen)))
        learned = page.eval_on_selector_all(f"#row-{row} .token", "all => all.map(t => t.matches('.supervised'))")
        assert learned == (batch.tensors["labels"][row, : len(seen)] != -100).tolist()
        for begin, end in runs:
            texts = page.eval_on_selector_all(f"#row-{row} .token", "all => all.map(t => t.lastChild.textContent)")
            dots = sum(text == "·" for text in texts[begin:end])
            marks = page.locator(f"#row-{row} .token:has(.mark)").count()
            assert 0 < end - begin - dots <= marks
    assert poor_contrast(page) == []
    assert overflow(page) <= 0


@pytest.mark.parametrize("family", ["qwen2_5_vl", *LONG])
def test_a_token_says_where_it_stands(pages: Pages, server: ServerProcess, family: str) -> None:
    """Pointing at a placeholder reads out its position on three axes, as `position_ids` has it."""
    batch = read_batch(server.url, family, step_with(server.url, family, "two"))
    row = next(n for n, info in enumerate(batch.header.rows) if info.key == "two")
    page = pages.open(f"/inspect/{family}/0/0/0?world_size=1")
    begin = int(page.locator(f"#row-{row} .token:has(.mark)").nth(1).get_attribute("data-token"))
    page.locator(f"#row-{row} [data-token='{begin + 1}']").hover()
    time, high, wide = batch.tensors["position_ids"][:, row, begin + 1]
    assert f"position {time}, {high}, {wide}" in page.locator(f"#row-{row} .readout").inner_text()
