"""The loader that people write: webdataset, a torch DataLoader with two workers, one function from sample to row.

With `kernels="usual"` pictures go through Pillow and leave as float32; with `"ours"` through our decoder and resizer
and leave as uint8. The text of a row is the same work everywhere: our layout's encoder and the same tokenizer.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as Picture

from benchmarks.workload import IMAGE_SIZE, MAX_LENGTH, Workload
from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.assemble.resizers import make_resizer
from owl_stream.assemble.tokenizer import ChatTokenizer, load_tokenizer
from owl_stream.layouts import Chat, EncodedRow, Image, Layout, LengthLimit, Resize
from owl_stream.records import Message

Kernels = Literal["usual", "ours"]
WORKERS = 2


@dataclass(frozen=True)
class Row:
    """One sample: its text and its crops, [crops, 3, S, S]."""

    text: EncodedRow
    crops: torch.Tensor


@dataclass(frozen=True)
class Recipe:
    """Sample -> row -> batch, as plain functions; picklable, so that worker processes of any loader can have it."""

    kernels: Kernels
    workload: Workload

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:
        torch.set_num_threads(1)
        return load_tokenizer(str(self.workload.tokenizer), Path(), self._layout.tokens).build()

    @cached_property
    def _resize(self) -> Resize:
        return make_resizer("simd")

    @cached_property
    def _layout(self) -> Layout:
        return self.workload.recipe().make_layout()

    def row(self, sample: Mapping[str, Any]) -> Row:
        """One webdataset-like sample, `jpg` and `json` as bytes."""
        jpeg, record = bytes(sample["jpg"]), json.loads(bytes(sample["json"]))
        messages = [Message(m["role"], m["content"]) for m in record["messages"]]
        return self._ours(jpeg, messages) if self.kernels == "ours" else self._usual(jpeg, messages)

    def batch(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Padded text tensors and all crops."""
        layout = self._layout
        lengths = layout.lengths([row.text.size for row in rows])
        arrays = {
            entry.name: np.empty([lengths[d] if isinstance(d, str) else d for d in entry.dims], entry.dtype)
            for entry in layout.schema
            if entry.normalise is None
        }
        layout.collate([row.text for row in rows], self._tokenizer.pad_id, arrays)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {**tensors, "pixel_values": torch.cat([row.crops for row in rows])}

    def _usual(self, jpeg: bytes, messages: list[Message]) -> Row:
        with Picture.open(io.BytesIO(jpeg)) as picture:
            image = picture.convert("RGB")
        text = self._encode(messages, image.width, image.height)
        size, (visual,) = IMAGE_SIZE, text.visuals
        pixels = []
        if visual.form:
            rows, cols = visual.form
            large = image.resize((cols * size, rows * size), Picture.Resampling.BICUBIC)
            boxes = [(c * size, r * size, (c + 1) * size, (r + 1) * size) for r in range(rows) for c in range(cols)]
            pixels = [large.crop(box) for box in boxes]
        pixels.append(image.resize((size, size), Picture.Resampling.BICUBIC))
        crops = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in pixels])
        return Row(text, crops.to(torch.float32).div_(255).sub_(0.5).div_(0.5))

    def _ours(self, jpeg: bytes, messages: list[Message]) -> Row:
        header = probe(jpeg, 10**8)
        text = self._encode(messages, header.width, header.height)
        (visual,) = text.visuals
        out = np.empty((visual.rows, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        self._layout.draw(decode(jpeg, header).pixels, visual, out, self._resize)
        return Row(text, torch.from_numpy(out))

    def _encode(self, messages: list[Message], width: int, height: int) -> EncodedRow:
        limit = LengthLimit(MAX_LENGTH, "truncate")
        return self._layout.encode(Chat(messages), [Image(width, height)], self._tokenizer, limit)


def recipe_of(workload: Workload, kernels: Kernels) -> Recipe:
    """The functions for a workload."""
    return Recipe(kernels, workload)


def webdataset_loader(workload: Workload, kernels: Kernels) -> Callable[[], Iterator[dict[str, torch.Tensor]]]:
    """Epoch after epoch of random batches."""
    recipe = recipe_of(workload, kernels)
    return random_batches(workload, recipe.row, recipe.batch)


def random_batches(
    workload: Workload, row: Callable[[Mapping[str, Any]], Any], batch: Callable[[list[Any]], dict[str, torch.Tensor]]
) -> Callable[[], Iterator[dict[str, torch.Tensor]]]:
    """Epoch after epoch: a sample becomes a row, and rows a batch, in the workers of a DataLoader."""
    import webdataset  # noqa: PLC0415 # the other contenders need it not

    urls = [str(path) for path in workload.shards]

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        dataset = (
            webdataset.WebDataset(urls, shardshuffle=len(urls), resampled=True, seed=0)
            .shuffle(256)
            .map(row)
            .batched(workload.rows, collation_fn=batch)
        )
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=WORKERS)
        yield from loader

    return batches
