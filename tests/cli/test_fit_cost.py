"""`owl-stream fit-cost`, on what a trainer's `StepTimes` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from owl_client import Batch, StepTimes, times
from owl_stream.config import VISION_PATCH
from tests.cli.command import Here


def test_what_a_trainer_wrote_gives_weights(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches measured with StepTimes on a clock that knows the truth: a text token costs four times a vision token."""
    now = 0.0
    monkeypatch.setattr("owl_client.times.time.perf_counter", lambda: now)
    written = StepTimes(tmp_path / "times.jsonl")
    for number in range(40):
        tensors = {"input_ids": torch.zeros(2, 50 + 37 * (number % 7), dtype=torch.int64)}
        if crops := number % 5:
            tensors["pixel_values"] = torch.zeros(crops, 3, 28, 28)
        with written.measure(Batch(tensors)):
            now += 1e-3 + 4e-6 * tensors["input_ids"].numel() + 1e-6 * 4 * crops
    assert len((tmp_path / "times.jsonl").read_text().splitlines()) == 40
    made = here.json("fit-cost", tmp_path / "times.jsonl")
    assert (made["batches"], made["text_token_cost"]) == (40, 1000)
    assert made["vision_token_cost"] == pytest.approx(250, abs=5)
    text = here("fit-cost", tmp_path / "times.jsonl").stdout
    assert "    text_token_cost: 1000\n" in text
    assert "40 batches: 1 ms each, and 4 us a padded text token" in text


def test_a_block_that_raises_writes_nothing(tmp_path: Path) -> None:
    """Half a batch has no time."""
    written = StepTimes(tmp_path / "times.jsonl")
    with pytest.raises(ZeroDivisionError), written.measure(Batch({"input_ids": torch.zeros(1, 1)})):
        raise ZeroDivisionError
    assert not (tmp_path / "times.jsonl").exists()


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", '{"text_tokens": 1}', '{"text_tokens": -1, "vision_tokens": 0, "seconds": 1}',
     '{"text_tokens": true, "vision_tokens": 0, "seconds": 1}',
     '{"text_tokens": 1, "vision_tokens": 0, "seconds": NaN}',
     '{"text_tokens": 1, "vision_tokens": 0, "seconds": 0}'],
)  # fmt: skip
def test_a_line_that_is_no_time_is_named(here: Here, tmp_path: Path, line: str) -> None:
    """By file and line, with what was expected; an empty line is none, and then there are too few."""
    good = json.dumps({"text_tokens": 1, "vision_tokens": 0, "seconds": 1.5})
    (tmp_path / "times.jsonl").write_text(f"{good}\n{line}\n")
    wrong = here("fit-cost", tmp_path / "times.jsonl")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert ("times.jsonl:2: expected" if line else "at least 16 batches, got 1:") in wrong.stderr


def test_a_file_that_is_not_there_is_named(here: Here) -> None:
    """One line, exit code 2."""
    wrong = here("fit-cost", "none.jsonl")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "none.jsonl" in wrong.stderr


def test_a_trainer_counts_vision_tokens_as_the_plan_does() -> None:
    """The client knows no configuration, so it has the patch's side too: they must not drift apart."""
    assert VISION_PATCH == times.VISION_PATCH
