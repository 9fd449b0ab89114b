"""`owl-stream fit-cost`, on what a trainer's `StepTimes` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from owl_client import Batch, BatchMeta, OwlStreamDataset, StepTimes
from owl_stream.errors import RequestError
from tests.cli.command import Here
from tests.support.datasets import small_dataset
from tests.support.server import ServerProcess


def batch_of(tokens: torch.Tensor, vision_tokens: int) -> Batch:
    """A batch of such text, with so many vision tokens."""
    return Batch({"input_ids": tokens}, BatchMeta(0, 0, 0, 0, 1, (), 0, 0, 0, vision_tokens, 0, 1, {}))


def test_what_a_trainer_wrote_gives_weights(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches measured with StepTimes on a clock that knows the truth: a text token costs four times a vision token."""
    now = 0.0
    monkeypatch.setattr("owl_client.times.time.perf_counter", lambda: now)
    written = StepTimes(tmp_path / "times.jsonl")
    for number in range(40):
        tokens, vision_tokens = torch.zeros(2, 50 + 37 * (number % 7), dtype=torch.int64), 4 * (number % 5)
        with written.measure(batch_of(tokens, vision_tokens)):
            now += 1e-3 + 4e-6 * tokens.numel() + 1e-6 * vision_tokens
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
    with pytest.raises(ZeroDivisionError), written.measure(batch_of(torch.zeros(1, 1), 4)):
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


def test_a_batch_without_meta_is_refused_before_it_is_trained_on(tmp_path: Path) -> None:
    """One that a trainer has rebuilt does not say how many vision tokens it has."""
    trained = []
    with (
        pytest.raises(RequestError, match="has no meta"),
        StepTimes(tmp_path / "times.jsonl").measure(Batch({"input_ids": torch.zeros(1, 1)})),
    ):
        trained.append(1)
    assert not trained


def test_a_trainer_counts_vision_tokens_as_the_plan_does(here: Here, tmp_path: Path) -> None:
    """The client knows no configuration: what it writes of a real server's batches is what the plan says of them."""
    config = small_dataset(tmp_path, samples=16, server={"workers": 1})
    written = StepTimes(tmp_path / "times.jsonl")
    with ServerProcess(config) as server:
        for batch in OwlStreamDataset(server.url, rank=0, world_size=1):
            with written.measure(batch):
                pass
    lines = [json.loads(line) for line in (tmp_path / "times.jsonl").read_text().splitlines()]
    steps = here.json("plan", "--config", config, "--count", str(len(lines)))["steps"]
    assert [line["vision_tokens"] for line in lines] == [step["vision_tokens"] for step in steps]
    assert {line["vision_tokens"] for line in lines} > {0}
