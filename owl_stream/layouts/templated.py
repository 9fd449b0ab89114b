"""Rows of families whose text the model's own chat template writes, with runs of placeholders for media."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError, SampleError
from owl_stream.layouts.conversation import IMAGE, MARKER, check_conversation
from owl_stream.layouts.placeholders import repeat
from owl_stream.layouts.settling import choice
from owl_stream.layouts.template import ChatMessage, ChatTemplate, MediumKind, MediumPlace, Part, RenderedChat
from owl_stream.layouts.truncation import cut_position
from owl_stream.layouts.types import Chat, Choices, EncodedRow, Image, LengthLimit, Medium, Tokenizer, Turn, Visual
from owl_stream.models import ModelFiles


@dataclass(frozen=True)
class TextSettings:
    """The model's chat template, what it may read, the date that it is told, and which answers are learned."""

    template: str
    variables: tuple[tuple[str, str], ...]
    today: str
    train_on: Literal["all", "last"]

    @classmethod
    def of(cls, choices: Choices) -> TextSettings:
        """From a model's files and what the configuration chooses.

        Raises:
            ConfigError: no chat template.
        """
        model = choices.model
        source = choices.template or (model.template if model is not None else None)
        if source is None:
            where = "no `model`" if model is None else f"model {model.name} has none"
            raise ConfigError(
                f"`chat_template`: {where}: expected chat_template.jinja, or `chat_template` in tokenizer_config.json "
                "or processor_config.json; name a file of Jinja with `chat_template`"
            )
        train_on = choice("train_on", choices.train_on or "all", ("all", "last"))
        variables = {} if model is None else model.tokens
        settings = cls(source, tuple(sorted(variables.items())), TODAY, train_on)  # type: ignore[arg-type] # checked
        settings.build()
        return settings

    def build(self) -> ChatTemplate:
        """The template, compiled."""
        return ChatTemplate(self.template, dict(self.variables), self.today)


TODAY = "2026-01-01"
"""The date that templates are told: the same in every run, so that equal recipes give equal text."""


def need_model(choices: Choices, layout: str) -> ModelFiles:
    """The model's files.

    Raises:
        ConfigError: none are chosen.
    """
    if choices.model is None:
        raise ConfigError(f"`model`: expected a directory or hub id, from which layout {layout} takes its settings")
    return choices.model


class MediumPlan(NamedTuple):
    """What becomes of one medium of a row.

    `text`: what stands for it, with one placeholder for each run; `runs`: tokens of each. `units`: for each, the run in
    which it begins and how many tokens in. `visuals`: `first` counts from the medium's own first row of its tensor, and
    `rows`: how many rows of which tensor it has in all. The numbers are those of `RowSize`.
    """

    text: str
    runs: tuple[int, ...]
    units: tuple[tuple[int, int], ...]
    visuals: tuple[Visual, ...]
    rows: tuple[str, int]
    image_units: int = 0
    image_tokens: int = 0
    video_units: int = 0
    video_tokens: int = 0


class _Placed(NamedTuple):
    """A text with all media in place. `learned`: characters; `spans`: characters of each medium."""

    text: str
    learned: tuple[tuple[int, int], ...]
    spans: tuple[tuple[int, int], ...]


class TemplatedLayout(ABC):
    """Encodes by a chat template; a family adds what its media become.

    `placeholders`: what the template writes for an image or a video. `placeholder_ids`: the ids of the tokens that are
    repeated for media. `around`: ids of tokens that stand beside a medium and go where it goes. `reserved`: tokens that
    only a medium's own text has.
    """

    name: ClassVar[str]
    apart: ClassVar[bool] = False
    """Whether the model takes two runs of one kind for one, so that text must stand between them."""
    placeholders: Mapping[MediumKind, str]
    placeholder_ids: tuple[int, ...]
    around: tuple[int, ...]
    reserved: tuple[str, ...]

    def __init__(self, text: TextSettings) -> None:
        self._text, self.around, self.reserved = text, (), ()

    @cached_property
    def _template(self) -> ChatTemplate:
        return self._text.build()

    @abstractmethod
    def plan(self, index: int, medium: Medium) -> MediumPlan:
        """What becomes of the row's medium number `index`.

        Raises:
            SampleError: the family has no place for such a medium.
        """

    def plans(self, media: Sequence[Medium]) -> list[MediumPlan]:
        """What becomes of all media of a row, for a family where that depends on how many there are."""
        return [self.plan(index, medium) for index, medium in enumerate(media)]

    def replaced(self, text: str, place: MediumPlace) -> tuple[int, int]:
        """Which characters [begin, end) of the template's text give way to a medium's text."""
        return place.begin, place.end

    def encode(self, chat: Chat, media: Sequence[Medium], tokenizer: Tokenizer, limit: LengthLimit) -> EncodedRow:
        """See `Layout.encode`.

        Raises:
            SampleError: those of `check_conversation`, `ChatTemplate.render` and `plan`; `too_long`,
                `no_supervised_tokens`.
        """
        check_conversation(chat, media, templated=True)
        plans = self.plans(media)
        placed = self._place(chat, media, plans)
        tokens = tokenizer.encode(placed.text)
        offsets = np.array(list(tokens.offsets), dtype=np.int64).reshape(-1, 2)
        runs = [run for plan in plans for run in plan.runs]
        whole = repeat(tokens.ids, self.placeholder_ids, runs)

        def long(span: tuple[int, int]) -> tuple[int, int]:
            first = int(np.searchsorted(offsets[:, 1], span[0], side="right"))
            last = int(np.searchsorted(offsets[:, 0], span[1], side="left"))
            return int(whole.starts[first]), int(whole.starts[max(first, last)])

        ids, learned = whole.input_ids, [long(span) for span in placed.learned]
        groups = [self._group(ids, long(span)) for span in placed.spans]
        cut, kept = _cut(len(ids), groups, limit)
        starts = whole.starts[np.flatnonzero(np.isin(tokens.ids, self.placeholder_ids))]
        supervised = tuple((begin, min(end, cut)) for begin, end in learned if begin < min(end, cut))
        if not supervised:
            raise SampleError(
                "no_supervised_tokens",
                f"expected an answer within {limit.max_length} tokens, got none; the whole conversation has {len(ids)}",
            )
        return _row(ids[:cut], supervised, starts, plans[:kept], truncated=cut < len(ids))

    def filler(self, tokenizer: Tokenizer) -> EncodedRow:
        """See `Layout.filler`."""
        return EncodedRow(np.array([tokenizer.pad_id], dtype=np.int64), (), np.array([], dtype=np.int64), ())

    def _rendered(self, chat: Chat) -> RenderedChat:
        return self._template.render(
            [ChatMessage(turn.role, tuple(_parts(turn.content)), turn.learned, _extra(turn)) for turn in chat.turns],
            tools=chat.tools or None,
            train_on=self._text.train_on,
            placeholders=self.placeholders,
        )

    def _place(self, chat: Chat, media: Sequence[Medium], plans: Sequence[MediumPlan]) -> _Placed:
        """The conversation's text with each medium's own text in it."""
        rendered = self._rendered(chat)
        text = rendered.text
        if spelled := [token for token in self.reserved if token in text]:
            raise SampleError(
                "template_placeholder", f"expected no text that spells out {spelled[0]}, which stands for pictures"
            )
        kinds = ["image" if isinstance(medium, Image) else "video" for medium in media]
        if [place.kind for place in rendered.media] != kinds:
            raise SampleError("template_media", "expected the chat template to keep images and videos in their order")
        parts, spans, shifts = [], [], [(0, 0)]
        length = behind = 0
        for place, plan in zip(rendered.media, plans, strict=True):
            begin, end = self.replaced(text, place)
            parts += [text[behind:begin], plan.text]
            length += begin - behind
            spans.append((length, length + len(plan.text)))
            if self.apart and len(spans) > 1 and spans[-2][1] == spans[-1][0] and kinds[len(spans) - 2] == place.kind:
                detail = (
                    f"expected text between two media, as the model tells them apart by it, got {place.kind}s alone"
                )
                raise SampleError("template_media", f"{detail}: the chat template writes nothing around them")
            length, behind = spans[-1][1], end
            shifts.append((end, length - end))
        parts.append(text[behind:])
        learned = tuple((_shifted(begin, shifts), _shifted(end, shifts)) for begin, end in rendered.learned)
        return _Placed("".join(parts), learned, tuple(spans))

    def _group(self, ids: NDArray[np.int64], span: tuple[int, int]) -> tuple[int, int]:
        """A medium's tokens, and those beside it that mean nothing without it."""
        begin, end = span
        if begin and ids[begin - 1] in self.around:
            begin -= 1
        if end < len(ids) and ids[end] in self.around:
            end += 1
        return begin, end


def _extra(turn: Turn) -> Mapping[str, Any]:
    """What a template may read of a turn besides its text."""
    said = {
        "reasoning_content": turn.reasoning,
        "tool_calls": turn.calls,
        "tool_call_id": turn.call_id,
        "name": turn.name,
    }
    return {name: value for name, value in said.items() if value}


def _parts(content: str) -> Iterator[Part]:
    behind = 0
    for found in MARKER.finditer(content):
        if found.start() > behind:
            yield Part("text", content[behind : found.start()])
        yield Part("image" if found.group() == IMAGE else "video")
        behind = found.end()
    if behind < len(content) or not content:
        yield Part("text", content[behind:])


def _shifted(at: int, shifts: Sequence[tuple[int, int]]) -> int:
    """Where a character of the template's text is once media are in place; none is asked for inside a medium."""
    return at + next(shift for behind, shift in reversed(shifts) if behind <= at)


def _cut(tokens: int, groups: Sequence[tuple[int, int]], limit: LengthLimit) -> tuple[int, int]:
    """(tokens to keep, media to keep)."""
    if tokens <= limit.max_length:
        return tokens, len(groups)
    if limit.on_too_long == "skip":
        raise SampleError("too_long", f"expected at most {limit.max_length} tokens (`max_length`), got {tokens}")
    return cut_position(groups, limit.max_length)


def _row(
    ids: NDArray[np.int64],
    supervised: tuple[tuple[int, int], ...],
    run_starts: NDArray[np.int64],
    plans: Sequence[MediumPlan],
    *,
    truncated: bool,
) -> EncodedRow:
    units: list[int] = []
    visuals: list[Visual] = []
    rows: Counter[str] = Counter()
    first_run = 0
    for plan in plans:
        units += [int(run_starts[first_run + run]) + offset for run, offset in plan.units]
        tensor, count = plan.rows
        visuals += [visual._replace(first=visual.first + rows[tensor]) for visual in plan.visuals]
        rows[tensor] += count
        first_run += len(plan.runs)
    return EncodedRow(
        ids,
        supervised,
        np.array(units, dtype=np.int64),
        tuple(visuals),
        image_units=sum(plan.image_units for plan in plans),
        image_tokens=sum(plan.image_tokens for plan in plans),
        video_units=sum(plan.video_units for plan in plans),
        video_tokens=sum(plan.video_tokens for plan in plans),
        truncated=truncated,
    )


def lengths_of(rows: Sequence[Any]) -> dict[str, int]:
    """B rows and L tokens of rows of these sizes."""
    return {"B": len(rows), "L": max(size.text_tokens for size in rows)}
