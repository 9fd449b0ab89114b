"""Tiny Owl: mPLUG-Owl3's way of looking at images, in a language model small enough to train on a laptop's CPU.

Written from the published description (arXiv 2408.04840). Some decoder layers are *hyper attention* layers: text
attends to text and, beside it, to the crops that `media_offset` lets each token see. Both share the query and the layer
norm; the visual keys and values have projections of their own; a gate computed from the text mixes the two. It exists
to train in seconds and to show that a padded batch is right: a reader of `media_offset` that behaves as the released
models do gives a row the same logits in any company.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

LayoutName = Literal["owl3-240728", "owl3-241101"]

VISUAL_GRID = 4
"""A crop becomes VISUAL_GRID^2 visual tokens, each from a patch of 4 x 4 averaged pixels."""


@dataclass(frozen=True)
class Output:
    """`logits`: float32 [B, L, vocabulary]; `loss`: mean over the supervised tokens, None without labels."""

    loss: Tensor | None
    logits: Tensor


@dataclass(frozen=True)
class RowCrops:
    """Which crops one row of the batch sees, and from where on.

    Row `row` reads crops `first` to `last - 1` of `pixel_values`; crop i of them stands at text position
    `placeholder[i]` and is seen by every token from `visible_from[i]` on (both int64).
    """

    row: int
    first: int
    last: int
    placeholder: Tensor
    visible_from: Tensor


@dataclass(frozen=True)
class Sight:
    """Visual tokens of all crops, float [C, V, hidden] (None without pixels), and the rows that see some of them."""

    tokens: Tensor | None
    rows: Sequence[RowCrops]


def select_query(media_offset: Tensor) -> Iterator[int]:
    """Yield the rows of int64 [B, L, 2] that have images: those whose `[..., 1]` holds no negative number.

    Raises:
        AssertionError: a row is neither all >= 0 nor all negative, as the released 240728 model says it.
    """
    length = media_offset.shape[1]
    cells = (media_offset[..., 1] >= 0).nonzero()
    assert len(cells) % length == 0, f"{len(cells)} cells see images, which is no multiple of {length}"
    for start in range(0, len(cells), length):
        run = cells[start : start + length]
        assert run[0, 0] == run[-1, 0], f"a run of {length} cells crosses from row {run[0, 0]} into row {run[-1, 0]}"
        yield int(run[0, 0])


def row_crops_240728(media_offset: Tensor) -> Iterator[RowCrops]:
    """Read [B, L, 2]: the last position names the crops, the increments along the row say where each one stands.

    `[t, 1]` counts the crops that start strictly before t, so a crop is seen from the position after its start on.

    Raises:
        RuntimeError: an offset falls along the row, as it does under padding with zeros.
    """
    for row in select_query(media_offset):
        first, last = media_offset[row, -1].tolist()
        counted = media_offset[row, :, 1]
        arrivals = counted.diff(prepend=counted.new_tensor([first]))
        visible_from = torch.arange(len(counted), device=counted.device).repeat_interleave(arrivals)
        yield RowCrops(row, first, last, placeholder=visible_from - 1, visible_from=visible_from)


def row_crops_241101(media_offset: Sequence[Tensor]) -> Iterator[RowCrops]:
    """Read a list of B tensors: where the crops of each row start in it; a crop is seen from its start on."""
    first = 0
    for row, starts in enumerate(media_offset):
        if len(starts):
            yield RowCrops(row, first, first + len(starts), placeholder=starts, visible_from=starts)
        first += len(starts)


def rotate(vectors: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions: turn float [..., heads, T, D] by int64 positions [T]."""
    half = vectors.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half, device=vectors.device) / half)
    angles = positions[:, None] * frequencies
    left, right = vectors[..., :half], vectors[..., half:]
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Attention of [..., heads, T, D] over [..., heads, K, D] where bool `visible` [..., T, K] is true."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    context: Tensor = scores.softmax(dim=-1) @ value
    return context


class VisionStub(nn.Module):
    """Stands in for the vision tower: a crop [3, S, S] of any S becomes VISUAL_GRID^2 tokens of averaged patches."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, hidden, kernel_size=4, stride=4)
        self.places = nn.Parameter(torch.randn(VISUAL_GRID**2, hidden) * 0.02)
        self.project = nn.Linear(hidden, hidden)

    def forward(self, crops: Tensor) -> Tensor:
        """Float [C, 3, S, S] -> float [C, VISUAL_GRID^2, hidden]."""
        projected: Tensor = self.project(self.tower(crops))
        return projected

    def tower(self, crops: Tensor) -> Tensor:
        """What comes before the projection into the language model's space; shapes as in `forward`."""
        averaged = functional.adaptive_avg_pool2d(crops, 4 * VISUAL_GRID)
        tokens = self.patches(averaged).flatten(2).transpose(1, 2) + self.places
        return functional.gelu(tokens)


class Attention(nn.Module):
    """Causal self-attention over text with rotary positions, behind its layer norm."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(hidden)
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.out = nn.Linear(hidden, hidden, bias=False)

    def heads_of(self, hidden: Tensor) -> Tensor:
        """[..., T, hidden] -> [..., heads, T, D]."""
        return hidden.reshape(*hidden.shape[:-1], self.heads, -1).transpose(-2, -3)

    def look(self, text: Tensor, query: Tensor, context: Tensor, sight: Sight) -> Tensor:
        """What becomes of the text's context [B, heads, L, D] in view of the images; here nothing."""
        return context

    def forward(self, text: Tensor, visible: Tensor, sight: Sight) -> Tensor:
        """[B, L, hidden] -> [B, L, hidden]; bool `visible` [B, 1, L, L] says which token sees which."""
        text = self.norm(text)
        positions = torch.arange(text.shape[1], device=text.device)
        query = rotate(self.heads_of(self.query(text)), positions)
        key = rotate(self.heads_of(self.key(text)), positions)
        context = attend(query, key, self.heads_of(self.value(text)), visible)
        mixed: Tensor = self.out(self.look(text, query, context, sight).transpose(1, 2).flatten(2))
        return mixed


class HyperAttention(Attention):
    """Self-attention with gated cross-attention beside it; rows without crops are left as they are."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__(hidden, heads)
        self.visual_key, self.visual_value = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.gate = nn.Linear(hidden, 1)

    def look(self, text: Tensor, query: Tensor, context: Tensor, sight: Sight) -> Tensor:
        """Fuse what each token sees into its context: g * visual + (1 - g) * text, with g = 0 where it sees nothing."""
        if not sight.rows:
            return context
        assert sight.tokens is not None, "media_offset names crops, yet the batch has no pixel_values"
        visual = self.norm(sight.tokens)
        positions = torch.arange(text.shape[1], device=text.device)
        gate = torch.sigmoid(self.gate(text))
        fused = list(context.unbind(0))
        for crops in sight.rows:
            seen = positions[:, None] >= crops.visible_from
            looked = self.cross(query[crops.row], visual[crops.first : crops.last], crops.placeholder, seen)
            share = gate[crops.row] * seen.any(dim=1, keepdim=True)
            fused[crops.row] = share * looked + (1 - share) * context[crops.row]
        return torch.stack(fused)

    def cross(self, query: Tensor, visual: Tensor, placeholder: Tensor, seen: Tensor) -> Tensor:
        """Cross-attention of one row: query [heads, L, D] over visual [c, V, hidden], seen bool [L, c].

        All tokens of a crop take the position of its placeholder in the text.

        Raises:
            RuntimeError: `media_offset` placed another number of crops than it named.
        """
        per_crop = visual.shape[1]
        tokens = visual.flatten(0, 1)
        key = rotate(self.heads_of(self.visual_key(tokens)), placeholder.repeat_interleave(per_crop))
        return attend(query, key, self.heads_of(self.visual_value(tokens)), seen.repeat_interleave(per_crop, dim=1))


class DecoderLayer(nn.Module):
    """Attention, then a gated feed-forward network, each around a residual path."""

    def __init__(self, hidden: int, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(2 * hidden, hidden)

    def forward(self, text: Tensor, visible: Tensor, sight: Sight) -> Tensor:
        """[B, L, hidden] -> [B, L, hidden]."""
        text = text + self.attention(text, visible, sight)
        network: Tensor = self.down(functional.glu(self.up(self.norm(text))))
        return text + network


class TinyOwl3(nn.Module):
    """A causal language model that reads the batches of `layout` as they come: `model(**batch).loss`.

    `hyper_layers` names the layers that also look at images.
    """

    def __init__(
        self,
        vocab_size: int,
        layout: LayoutName = "owl3-240728",
        *,
        hidden: int = 64,
        layers: int = 4,
        heads: int = 4,
        hyper_layers: Sequence[int] = (1, 3),
    ) -> None:
        super().__init__()
        self.layout = layout
        self.embed = nn.Embedding(vocab_size, hidden)
        self.vision = VisionStub(hidden)
        self.layers = nn.ModuleList(
            DecoderLayer(hidden, (HyperAttention if i in hyper_layers else Attention)(hidden, heads))
            for i in range(layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocab_size, bias=False)
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        media_offset: Tensor | Sequence[Tensor] | None = None,
        pixel_values: Tensor | None = None,
    ) -> Output:
        """Logits of every position, and the loss when there are labels (shifted in here).

        input_ids, attention_mask, labels: int64 [B, L], labels -100 where unsupervised; media_offset: int64 [B, L, 2]
        for 240728, a list of B int64 tensors for 241101; pixel_values: float [crops, 3, S, S], absent without images.
        """
        length = input_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
        visible = causal & attention_mask.bool()[:, None, None, :]
        sight = Sight(None if pixel_values is None else self.vision(pixel_values), self.row_crops(media_offset))
        text = self.embed(input_ids)
        for layer in self.layers:
            text = layer(text, visible, sight)
        logits: Tensor = self.head(self.norm(text))
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return Output(loss, logits)

    def row_crops(self, media_offset: Tensor | Sequence[Tensor] | None) -> list[RowCrops]:
        """Read `media_offset` by the rules of the model's layout."""
        if media_offset is None:
            return []
        if isinstance(media_offset, Tensor):
            assert self.layout == "owl3-240728", f"{self.layout} reads a list of tensors, got one tensor"
            return list(row_crops_240728(media_offset))
        assert self.layout == "owl3-241101", f"{self.layout} reads one tensor [B, L, 2], got a list"
        return list(row_crops_241101(media_offset))
