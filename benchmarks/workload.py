"""What every contender reads: about four thousand real photographs, one conversation each, as WebDataset shards.

The photographs are those of `--photographs` (WebDataset tars) where there are any, else they are cut from the
photographs in scikit-image's wheel. All are JPEGs of about 500 x 375 pixels; a comment segment makes every file's bytes
unique, so that no cache that goes by content sees one twice.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from benchmarks.model_files import write_model
from owl_stream.config import DatasetConfig
from owl_stream.demo.pictures import photograph_directory
from owl_stream.demo.texts import LANGUAGES, PHOTOGRAPHS
from owl_stream.demo.tokenizer import train_tokenizer
from owl_stream.layouts import Recipe, settle_recipe

SAMPLES = 3840
SHARDS = 8
IMAGE_SIZE = 384
MAX_LENGTH = 4096
LAYOUT = "owl3-240728"

Kind = Literal["plain", "cut", "native"]
"""`plain`: mPLUG-Owl3, one crop an image. `cut`: a grid of crops and the whole view, as `cut: single` makes of a single
image. `native`: Qwen2.5-VL, each picture at its own resolution."""

KINDS = get_args(Kind)


@dataclass(frozen=True)
class Workload:
    """Shards on disk and how to turn a sample into a row."""

    kind: Kind
    directory: Path
    tokenizer: Path

    @property
    def shards(self) -> list[Path]:
        """The tars, in order."""
        return sorted(self.directory.glob("photographs-*.tar"))

    @property
    def rows(self) -> int:
        """Rows a batch, for every contender: what an accelerator takes of short rows, as in alignment, and of long."""
        return {"plain": 32, "cut": 8, "native": 16}[self.kind]

    @property
    def model(self) -> Path:
        """The directory of a Qwen2.5-VL model, for `native`."""
        return self.directory / "qwen2_5_vl"

    @property
    def settings(self) -> dict[str, Any]:
        """What the dataset's configuration says of shards and layout."""
        shards = {"shards": [str(path) for path in self.shards], "max_length": MAX_LENGTH}
        if self.kind == "native":
            return {**shards, "model": str(self.model)}
        vision = {"image_size": IMAGE_SIZE, "cut": "off" if self.kind == "plain" else "single"}
        return {**shards, "layout": LAYOUT, "tokenizer": str(self.tokenizer), "vision": vision}

    def recipe(self) -> Recipe:
        """How a sample becomes a row."""
        return settle_recipe(DatasetConfig(**self.settings, global_batch_size=self.rows))


@dataclass(frozen=True)
class Source:
    """A photograph and what is said about it."""

    jpeg: bytes
    question: str
    answer: str


def prepare(directory: Path, photographs: Sequence[Path], tokenizer: Path | None) -> dict[Kind, Workload]:
    """Write the shards and the tokenizer once; later runs find them."""
    directory.mkdir(parents=True, exist_ok=True)
    tokens = (tokenizer or directory / "tokenizer.json").resolve()
    if not tokens.exists():
        train_tokenizer([caption for language in LANGUAGES for caption in language.captions], tokens)
    name = "real" if photographs else "wheel"
    home = directory / f"{name}-{SAMPLES}"
    if not (home / "complete").exists():
        home.mkdir(exist_ok=True)
        sources = list(read_photographs(photographs) if photographs else cut_photographs())
        _write(home, sources)
        (home / "complete").touch()
    workloads = {kind: Workload(kind, home, tokens) for kind in KINDS}
    write_model(workloads["native"].model, tokens)
    return workloads


def read_photographs(shards: Sequence[Path]) -> Iterator[Source]:
    """The JPEGs of WebDataset shards of chats, each with its own sample's text."""
    for shard in shards:
        with tarfile.open(shard) as tar:
            members: dict[str, list[tuple[str, bytes]]] = {}
            for member in tar:
                key, _, ext = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                members.setdefault(key, []).append((ext, file.read()))
        for parts in members.values():
            record = next(json.loads(data) for ext, data in parts if ext == "json")
            texts = [message["content"].replace("<|image|>", "").strip() for message in record["messages"]]
            for ext, data in parts:
                if ext.endswith("jpg") and len(texts) > 1:
                    yield Source(data, texts[-2], texts[-1])


def cut_photographs(count: int = 240) -> Iterator[Source]:
    """Windows of the photographs in scikit-image's wheel, scaled to about 500 x 375, as fine JPEGs."""
    rng = np.random.default_rng(0)
    images = []
    for name in PHOTOGRAPHS:
        with Image.open(photograph_directory() / name) as image:
            images.append(image.convert("RGB"))
    for number in range(count):
        image = images[number % len(images)]
        width, height = (500, int(rng.integers(330, 400))) if number % 5 else (int(rng.integers(330, 400)), 500)
        share = rng.uniform(0.7, 1.0)
        side = (int(image.width * share), int(image.height * share))
        left, top = (int(rng.integers(0, 1 + whole - part)) for whole, part in zip(image.size, side, strict=True))
        box = (left, top, left + side[0], top + side[1])
        out = io.BytesIO()
        image.resize((width, height), Image.Resampling.BICUBIC, box=box).save(out, "JPEG", quality=95)
        captions = LANGUAGES[number % len(LANGUAGES)].captions
        answer = " ".join(captions[int(pick)] for pick in rng.integers(0, len(captions), int(rng.integers(1, 12))))
        yield Source(out.getvalue(), LANGUAGES[number % len(LANGUAGES)].describe, answer)


def commented(jpeg: bytes, text: str) -> bytes:
    """The same picture with a comment segment behind its first marker."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _write(home: Path, sources: Sequence[Source]) -> None:
    for shard in range(SHARDS):
        with tarfile.open(home / f"photographs-{shard:02}.tar", "w") as tar:
            for number in range(shard, SAMPLES, SHARDS):
                source = sources[number % len(sources)]
                record = [
                    {"role": "user", "content": f"<|image|>\n{source.question}"},
                    {"role": "assistant", "content": source.answer},
                ]
                _add(tar, f"{number:06}.jpg", commented(source.jpeg, f"photograph {number}"))
                _add(tar, f"{number:06}.json", json.dumps({"messages": record}, ensure_ascii=False).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
