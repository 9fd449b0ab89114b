"""Real servers whose data are not those of the run: refused by the names of what differs, and never mixed in."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from owl_client import OwlStreamDataset
from owl_stream.errors import DataChangedError, StateMismatchError
from tests.support.datasets import mixed_samples, small_dataset, write_config
from tests.support.hashes import batch_line
from tests.support.http import get
from tests.support.layouts import others_long
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess
from tests.support.tars import write_shard
from tests.support.tokenizer import small_tokenizer

INLINE = {"workers": 0}


def reader(*urls: str, dataset: str = "train") -> OwlStreamDataset:
    """A dataset that does not wait long for what will not come."""
    return OwlStreamDataset(urls, dataset=dataset, dtype=torch.uint8, prefetch=1, give_up_after_s=PATIENCE_S)


def lines(dataset: OwlStreamDataset) -> list[str]:
    """The rest of its epoch."""
    return [batch_line(batch) for batch in dataset]


def test_fault_18_what_changed_is_named_by_component(tmp_path: Path) -> None:
    """More shards, another recipe, tokenizer, seed or plan: a state is refused with just the components that differ."""
    config = small_dataset(tmp_path, server=INLINE)
    small_tokenizer(tmp_path / "other.json", vocab_size=420)
    write_shard(tmp_path / "more-00000.tar", mixed_samples(8, 1000))
    changes: dict[str, dict[str, Any]] = {
        "train": {},
        "shards": {"shards": ["train-*.tar", "more-*.tar"]},
        "recipe": {"max_length": 500},
        "tokenizer": {"tokenizer": "other.json"},
        "seed": {"seed": 7},
        "plan": {"bucket_window": 2},
    }
    whole = yaml.safe_load(config.read_text())
    base = whole["datasets"]["train"]
    config.write_text(yaml.safe_dump({**whole, "datasets": {name: base | change for name, change in changes.items()}}))
    named: dict[str, set[str]] = {}
    with ServerProcess(config) as server:
        state = reader(server.url).state_dict()
        for name in changes:
            if name == "train":
                reader(server.url, dataset=name).load_state_dict(state)
                continue
            with pytest.raises(StateMismatchError) as caught:
                reader(server.url, dataset=name).load_state_dict(state)
            named[name] = set(caught.value.differences)
            assert all(component in str(caught.value) for component in named[name])
        forced = reader(server.url, dataset="seed")
        forced.load_state_dict(state, force=True)
        assert len(lines(forced)) == 11
    assert named == {
        "shards": {"manifest", "costs"},
        "recipe": {"recipe"},
        "tokenizer": {"tokenizer", "costs"},
        "seed": {"seed"},
        "plan": {"plan"},
    }


def test_fault_18_a_server_that_came_back_with_other_data_is_refused_by_component(tmp_path: Path) -> None:
    """Its 409 knows two fingerprints; the error that the trainer sees says that it is the seed."""
    config = small_dataset(tmp_path, server=INLINE)
    with ServerProcess(config) as server:
        dataset = reader(server.url)
        assert len(lines(dataset)) == 11
        assert server.stop() == 0
        write_config(tmp_path, server=INLINE, seed=1)
        server.start()
        refusal = get(f"{server.url}/v1/datasets/train/stream?fingerprint={dataset.state_dict()['fingerprint']}")
        assert (refusal.status, set(refusal.error["differences"])) == (409, {"fingerprint"})
        with pytest.raises(StateMismatchError, match=rf"{server.url} has other data: seed: expected 0") as caught:
            next(iter(dataset))
    assert caught.value.differences == {"seed": ("0", "1")}


def test_appended_shards_make_a_new_manifest_and_leave_the_old_one_alone(tmp_path: Path) -> None:
    """A server that was there before goes on as if nothing had come; a new one has another fingerprint, and is passed
    over by a run that began with the old.
    """
    config = small_dataset(tmp_path, server=INLINE)
    with ServerProcess(config) as old:
        undisturbed = lines(reader(old.url))
        dataset = reader(old.url)
        begun = [batch_line(batch) for batch in islice(dataset, 3)]
        state = dataset.state_dict()
        write_shard(tmp_path / "train-00002.tar", mixed_samples(12, 500))
        with ServerProcess(config) as new:
            before, after = (get(f"{server.url}/v1/datasets/train").json for server in (old, new))
            assert before["fingerprint"] == state["fingerprint"] != after["fingerprint"]
            assert (before["samples"], after["samples"]) == (40, 52)
            with pytest.raises(StateMismatchError) as caught:
                reader(new.url).load_state_dict(state)
            assert set(caught.value.differences) == {"manifest", "costs"}
            resumed = reader(new.url, old.url)
            resumed.load_state_dict(state)
            assert begun + lines(resumed) == undisturbed
            assert begun + lines(dataset) == undisturbed
            assert lines(reader(old.url)) == undisturbed


@others_long
def test_fault_40_a_shard_rewritten_under_a_server_stops_it_and_not_the_run(layout: str, tmp_path: Path) -> None:
    """Same size, other bytes: that server says data_changed and sends none of it; one with the old bytes goes on."""
    config = small_dataset(tmp_path / "a", layout=layout, server=INLINE, shuffle="none", shards=1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with ServerProcess(config) as changed, ServerProcess(tmp_path / "b" / config.name) as same:
        undisturbed = lines(reader(same.url))
        shard = tmp_path / "a" / "train-00000.tar"
        raw = bytearray(shard.read_bytes())
        at = raw.index(b"number 21")
        raw[at : at + 9] = b"number 12"
        shard.write_bytes(raw)
        dataset = reader(changed.url, same.url)
        assert lines(dataset) == undisturbed
        assert dataset.stats().reconnects == 1
        with pytest.raises(DataChangedError, match=r"train-00000\.tar"):
            lines(reader(changed.url))
