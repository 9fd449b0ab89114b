"""`owl-stream check`: every bad sample, nothing else, and what the good ones are like.

Fault 109 of docs/faults.md.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cli.command import Here
from tests.cli.faulty_shards import MAX_LENGTH, good, plant_sample_faults, plant_shard_faults, plant_unsupervised
from tests.support.damage import member_offsets
from tests.support.datasets import write_config
from tests.support.images import suspicious_jpeg
from tests.support.tars import chat, picture, write_shard
from tests.support.tokenizer import small_tokenizer


def test_a_clean_dataset_ends_0_with_histograms(here: Here, config: Path) -> None:
    """Eight good samples: nothing is listed, and each distribution counts all of them."""
    done = here("check", "--config", config, "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert "1 shards, 8 samples indexed, 8 decoded, nothing bad" in done.stdout
    assert "supervised tokens: " in done.stdout
    assert "█" in done.stdout
    (train,) = here.json("check", "--config", config, "--no-decode")["datasets"].values()
    for name in ("text_tokens", "supervised_tokens", "vision_tokens", "units"):
        assert train[name]["samples"] == sum(samples for _, _, samples in train[name]["bins"]) == 8
    assert train["units"]["min"] == 0 < train["units"]["max"]


def test_faults_42_to_52_56_to_62_and_69_to_78_are_found_and_nothing_else(here: Here, tmp_path: Path) -> None:
    """Planted among good samples, in two datasets because 76 and 78 are two ways to treat what is too long."""
    small_tokenizer(tmp_path / "tokenizer.json")
    skipping, cutting = tmp_path / "skip", tmp_path / "cut"
    expected = {("skip", *found) for found in plant_shard_faults(skipping) | plant_sample_faults(skipping)}
    expected |= {("cut", *found) for found in plant_unsupervised(cutting)}
    common = {"tokenizer": "tokenizer.json", "vision": {"image_size": 28}, "max_length": MAX_LENGTH}
    datasets = {
        "skip": {"shards": ["skip", "skip/48.tar.gz"], "on_too_long": "skip", **common},
        "cut": {"shards": ["cut"], **common},
    }
    path = tmp_path / "owl-stream.yaml"
    path.write_text(yaml.safe_dump({"server": {"sample_cpu_s": 1}, "datasets": datasets}))
    report = here.json("check", "--config", path, code=1)
    bad = [{"dataset": name, **entry} for name, found in report["datasets"].items() for entry in found["bad"]]
    assert {(entry["dataset"], entry["shard"], entry["key"]) for entry in bad} == expected
    assert all(entry["reason"] and entry["detail"] and entry["offset"] >= 0 for entry in bad)
    late = {entry["key"]: entry for entry in bad if entry["stage"] == "assembly"}
    assert {key: entry["reason"] for key, entry in late.items()} == {
        "57-holes": "jpeg_corrupt",
        "60-cut": "image_truncated",
    }
    (slow,) = [entry for entry in bad if entry["key"] == "62"]
    assert (slow["stage"], slow["reason"]) == ("indexing", "image_too_large")
    assert late["57-holes"]["offset"] == member_offsets(skipping / "56-62.tar")["57-holes.jpg"][1]


def test_suspicious_pictures_and_notes_are_told_and_are_not_bad(here: Here, tmp_path: Path) -> None:
    """A JPEG that libjpeg warns about is sent, and listed; a field nobody knows is counted. The exit code stays 0."""
    odd = suspicious_jpeg(picture(40, 30))
    asked = chat(("<|image|>What is it?", "An owl."), flavour="sweet")
    samples = [good("fine"), ("odd", {"jpg": odd, "json": asked}), ("odder", {"jpg": odd, "json": asked})]
    write_shard(tmp_path / "train-0.tar", samples)
    small_tokenizer(tmp_path / "tokenizer.json")
    config = write_config(tmp_path)
    done = here("check", "--config", config, "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert "3 samples indexed, 3 decoded, nothing bad, 2 suspicious" in done.stdout
    assert "[jpeg_suspicious, suspicious]" in done.stdout
    assert "flavour" in done.stdout
    report = here.json("check", "--config", config, "--processes", "1")
    (train,) = report["datasets"].values()
    assert report["clean"]
    assert not train["bad"]
    offset = member_offsets(tmp_path / "train-0.tar")["odd.jpg"][1]
    first, second = train["suspicious"]
    assert (first["shard"], first["key"], first["member"], first["offset"]) == ("train-0.tar", "odd", "odd.jpg", offset)
    assert (first["reason"], second["key"]) == ("jpeg_suspicious", "odder")
    assert list(train["notes"].values()) == [2]


def test_fault_79_every_sample_bad_is_a_list_not_a_loop(here: Here, tmp_path: Path) -> None:
    """Where a server would refuse to start, the check still names each of them."""
    write_shard(tmp_path / "train-0.tar", [(f"{at}", {"jpg": b"no picture"}) for at in range(3)])
    small_tokenizer(tmp_path / "tokenizer.json")
    done = here("check", "--config", write_config(tmp_path))
    assert done.returncode == 1
    assert "train-0.tar 0 @ 0: expected a member json, txt or caption" in done.stdout
    assert "3 bad: 3 x record_missing" in done.stdout


def test_fault_40_a_shard_rewritten_after_indexing_is_found(here: Here, config: Path) -> None:
    """Same size, same time, other bytes: indexing keeps its table, decoding reads the truth."""
    import os

    assert here("check", "--config", config, "--no-decode").returncode == 0
    shard = config.with_name("train-00000.tar")
    status, (_, offset, _) = shard.stat(), member_offsets(shard)["000000.json"]
    data = bytearray(shard.read_bytes())
    data[offset + 20] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    (train,) = here.json("check", "--config", config, code=1)["datasets"].values()
    assert [(entry["key"], entry["reason"]) for entry in train["bad"]] == [("000000", "data_changed")]
    assert here("check", "--config", config, "--no-decode").returncode == 0


def test_what_data_says_cannot_draw_on_the_terminal(here: Here, tmp_path: Path) -> None:
    """A key with an escape sequence shows as its code, on one line."""
    key = "a\x1b[31m\nb"
    write_shard(tmp_path / "train-0.tar", [good("fine"), (key, {"json": b"{"})])
    small_tokenizer(tmp_path / "tokenizer.json")
    done = here("check", "--config", write_config(tmp_path))
    assert "\x1b" not in done.stdout
    assert "a\\x1b[31m" in done.stdout
