"""Conversation -> text by the model's own chat template, and which characters of it are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple

from owl_stream.errors import ConfigError, SampleError
from owl_stream.layouts.template_learned import by_marks, by_prefix, joined
from owl_stream.layouts.template_media import MediumPlace, find_media
from owl_stream.layouts.template_sandbox import Rendering, Sandbox
from owl_stream.layouts.template_turns import ChatMessage, MediumKind, Message, Part, Turns, plain, without_media
from owl_stream.layouts.template_written import Tools, check_written

__all__ = ["ChatMessage", "ChatTemplate", "MediumKind", "MediumPlace", "Part", "RenderedChat"]

_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables that say what is rendered; no setting may hide them."""


class RenderedChat(NamedTuple):
    """A conversation's text. `learned`: ranges [begin, end) of its characters, in order, apart.

    `media`: the media's placeholders in the order of the text; those of one kind are in the order of the conversation.
    """

    text: str
    learned: tuple[tuple[int, int], ...]
    media: tuple[MediumPlace, ...] = ()


class ChatTemplate:
    """A model's chat template, compiled once; threads may share it.

    `source`: the Jinja text. `variables`: what it may read besides the conversation, as transformers passes it: the
    tokenizer's special tokens by name (`bos_token`, `eos_token`) and the template's own switches (`add_vision_id`,
    `enable_thinking`). `today`: the date (`2025-01-31`) that `strftime_now` tells, at midnight. Without one a template
    that asks for it is refused: it would give the same conversation another text tomorrow.

    Raises:
        ConfigError: not Jinja (the line is named), a template that writes no user turn or asks for a date that is not
            set, a variable that is the conversation's own, a date that is none.
    """

    def __init__(self, source: str, variables: Mapping[str, Any], today: str | None) -> None:
        if hidden := sorted(_GIVEN & variables.keys()):
            raise ConfigError(f"chat template: expected switches and special tokens as variables, got {hidden[0]!r}")
        self._sandbox = Sandbox(source, _date(today))
        try:
            self._variables = plain(variables, "chat template's variables")
        except SampleError as exc:
            raise ConfigError(exc.detail) from exc
        self._turns = Turns(self._tried)

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Tools = None,
        train_on: Literal["all", "last"] = "all",
        placeholders: Mapping[MediumKind, str] | None = None,
    ) -> RenderedChat:
        """Write a conversation.

        Args:
            messages: the turns.
            tools: JSON schemas of functions.
            train_on: `all`: each assistant turn whose `learned` is set is learned; `last`: only the last one of the
                conversation, if its `learned` is set.
            placeholders: what the template writes for an image or a video of this model. Each must come once per
                medium of its kind, and from no other text. None looks for no media.

        Raises:
            SampleError: `record_empty`, no turns. `template_refused`, the template says why. `template_failed`, it
                cannot be run on this conversation. `template_extra`, a value that is no JSON. `template_tools` and
                `template_thinking`, the template leaves out tools, calls, results or thoughts. `template_media`, a
                medium has no place in the text. `template_placeholder`, a text spells out a placeholder.
                `template_prefix` and `template_marks`, what is learned cannot be told.
            ConfigError: the template asks for a date that is not set.
        """
        if not messages:
            raise SampleError("record_empty", "expected at least one message, got none")
        turns, given = self._made(messages), plain(tools or None, "tools")

        def write(count: int, prompt: bool = False) -> Rendering:
            what = f"the turns before message {count}" if count < len(turns) else "the conversation"
            return self._run(turns[:count], given, prompt, what)

        whole, wanted = write(len(turns)), _to_learn(messages, train_on)
        text = whole.text
        check_written(messages, given, text, wanted, self._trial)
        learned = by_marks(whole, wanted) if self._sandbox.marked else by_prefix(text, len(turns), wanted, write)
        if placeholders is None:
            return RenderedChat(text, joined(learned))
        bare = text
        if any(message.media for message in messages):
            silent = [without_media(turn) for turn in turns]
            bare = self._run(silent, given, False, "the conversation without its media").text
        return RenderedChat(text, joined(learned), find_media(text, bare, messages, placeholders))

    def _made(self, messages: Sequence[ChatMessage]) -> list[Message]:
        return [self._turns.make(position, message) for position, message in enumerate(messages)]

    def _trial(self, messages: Sequence[ChatMessage], tools: Tools) -> str:
        return self._run(self._made(messages), tools, False, "a trial").text

    def _run(self, turns: Sequence[Message], tools: Tools, prompt: bool, what: str) -> Rendering:
        variables = {**self._variables, "tools": tools, "documents": None, "add_generation_prompt": prompt}
        return self._sandbox.run(variables, turns, what)

    def _tried(self, turns: Sequence[Message], prompt: bool) -> str:
        return self._run(turns, None, prompt, "a trial").text


def _date(today: str | None) -> date | None:
    try:
        return None if today is None else date.fromisoformat(today)
    except ValueError as exc:
        raise ConfigError(f"`today`: expected a date like 2025-01-31, got {today!r}") from exc


def _to_learn(messages: Sequence[ChatMessage], train_on: Literal["all", "last"]) -> dict[int, bool]:
    """Position of each assistant turn -> whether it is learned."""
    answers = [position for position, message in enumerate(messages) if message.role == "assistant"]
    last = answers[-1:]
    return {at: messages[at].learned and (train_on == "all" or at in last) for at in answers}
