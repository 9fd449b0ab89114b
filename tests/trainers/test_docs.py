"""docs/trainers.md shows what runs. Libraries that take long to import run theirs in their own tests' processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from owl_client import OwlStreamDataset
from owl_stream.cli.fit_cost import read_times
from tests.support.datasets import small_dataset
from tests.support.server import ServerProcess
from tests.trainers.snippets import DOCUMENT, run, snippets

ELSEWHERE = {"Hugging Face Trainer", "TRL", "Accelerate", "Lightning", "DeepSpeed"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A small dataset, served."""
    config = small_dataset(tmp_path_factory.mktemp("docs"), samples=16, server={"workers": 0})
    with ServerProcess(config) as server:
        yield server.url


def test_every_section_with_code_is_run_somewhere() -> None:
    """A section that is added here must be run below or with its library."""
    here = {
        "A plain loop",
        "Evaluation",
        "DataLoader",
        "StatefulDataLoader",
        "DDP",
        "At another world size",
        "Equal seconds",
    }
    assert {title for title, blocks in snippets().items() if blocks} == here | ELSEWHERE


def test_a_script_changes_by_a_dozen_lines_at_most() -> None:
    """Of every trainer that has a section; what is added names things that are there."""
    diffs = re.findall(r"```diff\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert len(diffs) == 7
    for diff in diffs:
        added = [line[1:] for line in diff.splitlines() if line.startswith("+")]
        assert 0 < len(added) <= 12
        assert sum(line[0] in "+-" for line in diff.splitlines()) <= 12
        for line in added:
            for name in re.findall(r"\bOwlStream\w+|\bOwl\w*Mixin", line):
                assert name in {"OwlStreamDataset", "OwlStreamMixin", "OwlStreamDataModule"}


def test_the_plain_loop_trains_and_resumes(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run to its end it leaves a checkpoint of that end; a second run takes it up and has nothing left to do."""
    monkeypatch.chdir(tmp_path)
    first = run("A plain loop", url)
    assert (first.batch.meta.epoch, first.dataset.state_dict()["epoch"]) == (1, 2)
    again = run("A plain loop", url)
    assert "batch" not in vars(again)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name])


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
def test_loaders_give_states_that_resume(url: str) -> None:
    """Through DataLoader, then torchdata's, then at another world size."""
    loaded = run("DataLoader", url, {"dataset": OwlStreamDataset(url, micro_batch_size=2)})
    assert loaded.state["epoch"] == 1
    stateful = run("StatefulDataLoader", url, {"dataset": OwlStreamDataset(url, micro_batch_size=2)})
    whole = len(stateful.dataset)
    assert len(list(stateful.loader)) == whole - 1
    elastic = run("At another world size", url, {"state": loaded.state})
    assert next(iter(elastic.dataset)).meta.epoch == 1


def test_the_evaluation_gives_one_number(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same twice, for the same weights."""
    torch.manual_seed(0)
    run("Evaluation", url)
    first = capsys.readouterr().out
    torch.manual_seed(0)
    run("Evaluation", url)
    assert first.startswith("tensor(")
    assert capsys.readouterr().out == first


def test_times_that_a_trainer_wrote_are_what_fit_cost_reads(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each batch of an epoch, of its own size."""
    monkeypatch.chdir(tmp_path)
    dataset = OwlStreamDataset(url, micro_batch_size=2)
    run("Equal seconds", url, {"dataset": dataset})
    times = list(read_times(tmp_path / "times.jsonl"))
    assert len(times) == len(dataset) > 4
    assert len({time.text_tokens for time in times}) > 1
    assert {time.vision_tokens for time in times} > {0}
    assert min(time.seconds for time in times) > 0
