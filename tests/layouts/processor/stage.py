"""One model, the samples that are served for it, and what its own processor makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from owl_client.batch import pad_pieces
from owl_client.device import finish
from owl_stream.assemble import Dataset, open_dataset
from owl_stream.config import DatasetConfig
from tests.support.assembly import Made, run_job
from tests.support.families import as_parts, opened
from tests.support.families_processor import ProcessorFamily
from tests.support.images import encode

Sample = tuple[list[dict[str, str]], list[bytes]]
"""Turns, and the files of their pictures."""


@dataclass(frozen=True)
class Stage:
    """`samples`: by key."""

    family: ProcessorFamily
    dataset: Dataset
    samples: dict[str, Sample]
    directory: Path

    def expected(self, keys: list[str]) -> Any:
        """What the processor makes of these samples."""
        rows = [self.samples[key] for key in keys]
        pictures = [[opened(data) for data in files] for _, files in rows]
        return self.family.batch([as_parts(messages) for messages, _ in rows], pictures)

    def labels(self, key: str) -> list[int]:
        """By prefixes."""
        messages, files = self.samples[key]
        return self.family.labels(as_parts(messages), [opened(data) for data in files])

    def made(self, step: int, rank: int, world_size: int) -> tuple[Made, dict[str, torch.Tensor]]:
        """A rank's share of a step, as the client hands it out."""
        size = self.dataset.global_batch_size // world_size
        made = run_job(self.dataset, self.dataset.job(0, step, 0, rank, world_size, size))
        return made, handed_out(self.dataset, made)


def handed_out(dataset: Dataset, made: Made) -> dict[str, torch.Tensor]:
    """The tensors of a frame as the client hands them out: pixels finished and padded."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in made.tensors.items()}
    cuts = {entry.name: tensors[entry.lengths].tolist() for entry in dataset.schema if entry.lengths in tensors}
    for entry in dataset.schema:
        if entry.normalise is not None and entry.name in tensors:
            tensors[entry.name] = finish(tensors[entry.name], torch.float32, entry.normalise)
        if entry.lengths is not None:
            tensors.pop(entry.lengths, None)
    return pad_pieces(tensors, {name: cut for name, cut in cuts.items() if name in tensors})


def open_stage(directory: Path, **settings: Any) -> Dataset:
    """The samples of a directory, by the processor of the model in it."""
    given = {"layout": "processor", "model": "model", "global_batch_size": 4, "bucket_window": 2, **settings}
    return open_dataset("train", DatasetConfig(shards=("s-*.tar",), **given), directory, None, processes=0)


def noise(width: int, height: int, seed: int) -> Image.Image:
    """A picture with large and small parts."""
    values = np.random.default_rng(seed).integers(0, 256, (max(1, height // 4), max(1, width // 4), 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    """Questions and answers."""
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair, strict=True)]


SIZES = ((500, 375), (200, 900), (31, 29), (1, 1), (28, 28), (199, 1), (3, 500), (1600, 1200))


def pictures() -> dict[str, bytes]:
    """Every kind of picture: photographs, odd sides, extreme shapes, grey, palette, transparent."""
    found = {f"size-{w}x{h}": encode(noise(w, h, at), "PNG") for at, (w, h) in enumerate(SIZES)}
    photo = noise(120, 90, 20)
    alpha = photo.copy()
    alpha.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120), np.uint8)))
    kinds = {"grey": photo.convert("L"), "palette": photo.quantize(32), "alpha": alpha, "clear": alpha.convert("LA")}
    found.update({name: encode(picture, "PNG") for name, picture in kinds.items()})
    found["jpeg"] = encode(photo, "JPEG")
    return found


def samples() -> dict[str, Sample]:
    """One picture each, several between text and side by side, none."""
    found: dict[str, Sample] = {}
    for name, data in pictures().items():
        found[name] = (turns(("<|image|>What is it?", "An owl."), ("Are you sure?", "Quite sure, it is one.")), [data])
    many = list(pictures().values())[:5]
    found["many"] = (
        turns(("One <|image|> two <|image|><|image|>", "Three."), ("<|image|> and <|image|>", "Five.")),
        many,
    )
    found["two-alike"] = (turns(("<|image|><|image|>", "The same.")), [many[4], many[4]])
    found["behind"] = (turns(("Look at this: <|image|>", "Nice.")), many[:1])
    for number in range(4):
        found[f"text-{number}"] = (turns(("Hello " * (number + 1), "Good evening. " * (number + 1))), [])
    system = {"role": "system", "content": "You are brief."}
    found["system"] = ([system, *turns(("<|image|>What?", "A cat."), ("And?", "No more."))], many[1:2])
    return found
