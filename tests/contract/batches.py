"""Rows of every kind, and the batches that a trainer would be handed of them: made by the layouts themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor
from torch.nn import functional

from examples.tiny_owl3 import TinyOwl3
from owl_stream.layouts import EncodedRow, Image, Medium, Tokens, Video
from owl_stream.records import Message
from tests.layouts.batches import collated
from tests.layouts.characters import encode, make, recipe
from tests.support.tokenizer import small_tokenizer

LAYOUTS = ("owl3-240728", "owl3-241101")
SIDE = 32

CONVERSATIONS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[Medium, ...]]] = {
    "text": ((("What is two and two?", "Four."),), ()),
    "long text": ((("Tell me about cats. " * 12, "A cat sits. " * 6), ("And now?", "It sleeps.")), ()),
    "single": ((("<|image|>\nWhat is in this image?", "A cat."), ("Which?", "A tabby.")), (Image(64, 40),)),
    "multi": (
        (("First <|image|> then <|image|>, and", "A cat."), ("also <|image|>.", "A mat.")),
        (Image(40, 40), Image(90, 30), Image(30, 90)),
    ),
    "video": ((("<|video|> What happens?", "It sits."),), (Video((Image(40, 40),) * 3),)),
}


@dataclass(frozen=True)
class Piece:
    """A row and its own crops, float32 [C, 3, SIDE, SIDE]."""

    row: EncodedRow
    crops: Tensor


class SmallTokenizer:
    """What a layout asks of a tokenizer, on a vocabulary of a few hundred tokens."""

    def __init__(self, directory: Path) -> None:
        self.inner = tokenizers.Tokenizer.from_file(str(small_tokenizer(directory / "tokenizer.json")))
        self.pad_id = self.inner.token_to_id("<|endoftext|>")

    def encode(self, text: str) -> Tokens:
        """Tokenise one chunk."""
        encoding = self.inner.encode(text, add_special_tokens=False)
        return Tokens(encoding.ids, encoding.offsets)


def make_pieces(layout: str, tokenizer: SmallTokenizer, chat: str = "release", cut: str = "single") -> dict[str, Piece]:
    """One row of every kind, a filler and a masked row among them, each with random pixels of its own."""
    settings = recipe(layout=layout, image_size=SIDE, cut=cut, chat=chat)
    rows = {
        kind: encode(
            settings,
            [Message(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)],
            media,
            tokenizer,
        )
        for kind, (turns, media) in CONVERSATIONS.items()
    }
    rows |= {"masked": rows["single"].masked(), "filler": settings.make_layout().filler(tokenizer)}
    generator = torch.Generator().manual_seed(7)
    return {
        kind: Piece(row, torch.rand(row.image_units, 3, SIDE, SIDE, generator=generator) * 2 - 1)
        for kind, row in rows.items()
    }


def make_batch(layout: str, pieces: Sequence[Piece], pad_id: int) -> dict[str, Any]:
    """The padded batch, as the client hands it to `model(**batch)`."""
    arrays = collated(make(layout), [piece.row for piece in pieces], pad_id)
    batch: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if "media_offset_lengths" in batch:
        batch["media_offset"] = batch["media_offset"].split(batch.pop("media_offset_lengths").tolist())
    pixels = torch.cat([piece.crops for piece in pieces])
    if len(pixels):
        batch["pixel_values"] = pixels
    return batch


def make_model(layout: Any, vocab_size: int) -> TinyOwl3:
    """A model with fixed random weights."""
    torch.manual_seed(0)
    return TinyOwl3(vocab_size, layout=layout)


@dataclass(frozen=True)
class Answer:
    """Logits of one row's own tokens, [T, vocabulary], and the sum of its token losses."""

    logits: Tensor
    loss_sum: float


@torch.no_grad()
def answers(model: TinyOwl3, batch: dict[str, Any], pieces: Sequence[Piece]) -> list[Answer]:
    """What the model says of every row of a batch, padding left out."""
    logits = model(**batch).logits
    return [
        Answer(
            logits[b, : piece.row.size.text_tokens],
            functional.cross_entropy(logits[b, :-1], batch["labels"][b, 1:], ignore_index=-100, reduction="sum").item(),
        )
        for b, piece in enumerate(pieces)
    ]


def check_same(got: Sequence[Answer], alone: Sequence[Answer]) -> None:
    """The contract: the company that a row is in changes nothing that the model says of it."""
    worst = max(float((a.logits - b.logits).abs().max()) for a, b in zip(got, alone, strict=True))
    assert worst <= 1e-5, f"logits differ from those of single rows by up to {worst:.2e}"
    for a, b in zip(got, alone, strict=True):
        assert math.isclose(a.loss_sum, b.loss_sum, rel_tol=1e-5, abs_tol=1e-5)
