"""Ranks call the same towers in every step, so that FSDP, which gathers a tower's weights on all of them, goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.families import make_family
from tests.support.server import ROOT, ServerProcess
from tests.support.tars import picture, write_shard

WORLD_SIZE = 2
HANGS_S = 60.0
"""Far more than a run of these steps takes once its ranks have begun; only one that waits for ever gets there."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


def _config(directory: Path, modality: str) -> Path:
    """Samples of text, of an image, and of an image and a video; a row for each rank in a step."""
    make_family("qwen2_5_vl", directory / "model")
    members = []
    for number in range(12):
        kind = number % 3
        marks = ["", "<|image|>", "<|image|><|video|>"][kind]
        turns = [("user", f"{marks}What is it?"), ("assistant", f"An owl, {number}.")]
        record = {
            "messages": [{"role": role, "content": text} for role, text in turns],
            "images": ["still.jpg"] if kind else [],
            "videos": [["0.jpg", "1.jpg"]] if kind == 2 else [],
        }
        names = [*record["images"], *(name for frames in record["videos"] for name in frames)]
        files = {name: picture(60, 60, number) for name in names}
        members.append((f"s{number}", {"json": json.dumps(record).encode(), **files}))
    write_shard(directory / "a.tar", members)
    dataset = {
        "shards": ["a.tar"],
        "model": "model",
        "global_batch_size": WORLD_SIZE,
        "bucket_window": 1,
        "shuffle": "none",
        "modality": modality,
    }
    path = directory / "owl.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"train": dataset}, "server": {"workers": 0}}))
    return path


def _start(url: str, directory: Path) -> list[subprocess.Popen[bytes]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    common = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"WORLD_SIZE": str(WORLD_SIZE), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.trainers.fsdp_towers", url, str(directory)]
    return [subprocess.Popen(command, env={**common, "RANK": str(rank)}, cwd=ROOT) for rank in range(WORLD_SIZE)]


def _run(directory: Path, modality: str, limit_s: float) -> bool:
    """Whether all ranks came to the end of the epoch."""
    directory.mkdir()
    with ServerProcess(_config(directory, modality)) as server:
        ranks = _start(server.url, directory)
        try:
            codes = [rank.wait(limit_s) for rank in ranks]
        except subprocess.TimeoutExpired:
            return False
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    return codes == [0] * WORLD_SIZE


def test_fsdp_finishes_on_text_images_and_videos(tmp_path: Path) -> None:
    """With steps of one kind; with rows mixed freely one rank waits for another for ever."""
    assert _run(tmp_path / "pure", "pure", 300.0)
    steps = {int((tmp_path / "pure" / f"done-{rank}").read_text()) for rank in range(WORLD_SIZE)}
    assert steps == {6}
    assert not _run(tmp_path / "off", "off", HANGS_S)
