"""Real tars for tests: WebDataset shards written member by member, so that a test can also write a wrong one."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Sample = tuple[str, Mapping[str, bytes]]
"""(key, {extension: bytes}): ("0001", {"json": ..., "0.jpg": ...})."""
Conversation = tuple[list[dict[str, str]], list[Image.Image]]
"""Messages, and the pictures in their order."""


def write_shard(path: Path, samples: Iterable[Sample]) -> Path:
    """Write samples as one ustar/PAX shard with a fixed mtime."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for ext, data in members.items():
                info = tarfile.TarInfo(f"{key}.{ext}")
                info.size, info.mtime = len(data), 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
    return path


def read_conversations(shard: Path) -> dict[str, Conversation]:
    """A shard's samples without videos by key, by tarfile, json and Pillow alone."""
    samples: dict[str, Conversation] = {}
    parts: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, ext = member.name.partition(".")
            file = tar.extractfile(member)
            assert file is not None
            parts.setdefault(key, {})[ext] = file.read()
    for key, members in parts.items():
        record = json.loads(members.pop("json"))
        if record.get("videos"):
            continue
        names = record.get("images") or sorted(members, key=lambda name: (len(name), name))
        names = [name.removeprefix(f"{key}.") for name in names]
        samples[key] = (record["messages"], [Image.open(io.BytesIO(members[name])) for name in names])
    return samples


def picture(width: int, height: int, seed: int = 0, fmt: str = "JPEG") -> bytes:
    """A smooth random photograph-like image, encoded."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(out, fmt)
    return out.getvalue()


def chat(*turns: tuple[str, str], **extra: object) -> bytes:
    """A record in the `messages` form: chat(("<|image|>What?", "A cat."))."""
    messages = []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **extra}, ensure_ascii=False).encode()
