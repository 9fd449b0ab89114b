"""A conversation as a chat template takes it: one mapping a turn, whose content is a text or a list of typed parts.

Which of the two a template takes depends on the template, and within it on the role. Nothing in a template says so:
one that is given the wrong form fails, leaves the text out, or prints the list. So it is tried, once per role.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from owl_stream.errors import ConfigError, SampleError

MediumKind = Literal["image", "video"]

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Under which names a turn may have its thoughts."""

Message = dict[str, Any]
"""A turn as a template sees it: `role`, `content`, and what else the conversation has for it."""


class Part(NamedTuple):
    """A piece of a turn: some text, or the place of a medium, which has no text of its own."""

    kind: Literal["text", "image", "video"]
    text: str = ""


@dataclass(frozen=True)
class ChatMessage:
    """One turn. `role` as the template calls it: `system`, `user`, `assistant`, `tool`.

    `extra` holds JSON values that the template may read: `tool_calls`, `reasoning_content`, `name`, `tool_call_id`.
    `learned`: whether an assistant turn may be learned.
    """

    role: str
    parts: tuple[Part, ...]
    learned: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Its texts in one."""
        return "".join([part.text for part in self.parts])

    @property
    def media(self) -> list[MediumKind]:
        """The kinds of its media, in order."""
        return [part.kind for part in self.parts if part.kind != "text"]


class Forms(NamedTuple):
    """In which forms a template writes a role's content: as a text, as a list of parts. `why`: why not in others."""

    text: bool
    parts: bool
    why: str = ""


class Turns:
    """The turns of one template. `write` renders messages, with the prompt for an answer behind them or not.

    Raises:
        ConfigError: the template writes no user turn, or asks for a date that is not set.
    """

    def __init__(self, write: Callable[[Sequence[Message], bool], str]) -> None:
        self._write = write
        self._forms: dict[str, Forms] = {}
        found = self._tried("user", [], [])
        why = found.why
        if not (found.text or found.parts) and _LEFT_OUT not in why:
            found = self._tried("user", [{"role": "system", "content": _OTHER}], [])
        if not (found.text or found.parts):
            # A template that holds a question back until the answer comes would have the question learned with it.
            raise ConfigError(f"chat template: expected it to write what a user turn says: {why}")
        self._forms["user"] = found

    @cached_property
    def writes_reasoning(self) -> bool:
        """Whether it writes the thoughts of a last answer or of a call. One that cannot be tried is believed to."""
        answer = {**self._other("assistant"), **dict.fromkeys(REASONING, _WORD)}
        tried = [self._fault([self._other("user"), turn]) for turn in (answer, {**answer, "tool_calls": [_CALL]})]
        return tried != [_LEFT_OUT, _LEFT_OUT]

    def make(self, position: int, message: ChatMessage) -> Message:
        """The turn as the template gets it.

        As transformers does it (`render_jinja_template`, 5.23): values of None are left out, and reasoning is found
        under each of its names.

        Raises:
            SampleError: `template_media`, it has media and the template takes only text from this role.
                `template_extra`, something in `extra` is no JSON. `template_thinking`, it has thoughts and the template
                writes none.
        """
        made: Message = {"role": message.role, "content": self._content(position, message)}
        if not message.extra:
            return made
        given = {name: value for name, value in message.extra.items() if value is not None}
        extra: Message = plain(given, f"message {position} ({message.role})")
        reasoning = next((extra[name] for name in REASONING if name in extra), None)
        if reasoning and message.role == "assistant" and not self.writes_reasoning:
            detail = "expected no thoughts (`reasoning_content`), which the chat template leaves out, got some"
            raise SampleError("template_thinking", f"message {position} ({message.role}): {detail}")
        if reasoning is not None:
            extra = {"thinking": reasoning, **extra, "reasoning_content": reasoning}
        return made | extra | made

    def forms(self, role: str) -> Forms:
        """How the template takes this role; only as text, where it does not write the role at all."""
        if role not in self._forms:
            found = self._tried(role, *self._around(role))
            self._forms[role] = found if found.text or found.parts else Forms(text=True, parts=False)
        return self._forms[role]

    def _content(self, position: int, message: ChatMessage) -> str | list[dict[str, str]]:
        """A single text is given as text where the template takes one, media and several texts as a list.

        Most templates write a text and a list of one text alike. Where they do not, the text is what a model is asked
        with: a list of one empty text, say, is content to a template that asks whether a tool call has some before it.
        """
        forms = self.forms(message.role)
        if forms.text and len(message.parts) < 2 and not message.media:
            return message.text
        if forms.parts:
            return typed(message.parts)
        if message.media:
            detail = f"expected only text, which is all that the chat template takes there, got {message.media[0]}"
            raise SampleError("template_media", f"message {position} ({message.role}): {detail}")
        return message.text

    def _tried(self, role: str, before: list[Message], behind: list[Message]) -> Forms:
        turn = {"role": role, **_EXTRA.get(role, {})}
        contents = {"as a text": _WORD, "as a list": typed((Part("text", _WORD),))}
        why = {form: self._fault([*before, {**turn, "content": given}, *behind]) for form, given in contents.items()}
        told = "; ".join(f"{form}, {fault}" for form, fault in why.items() if fault)
        return Forms(not why["as a text"], not why["as a list"], told)

    def _fault(self, messages: list[Message]) -> str:
        """Empty if the template writes the word, and not as part of a printed list."""
        try:
            text = self._write(messages, messages[-1]["role"] != "assistant")
        except SampleError as exc:
            return exc.detail
        if _WORD not in text:
            return _LEFT_OUT
        return "it prints the list" if _PRINTED.search(text) else ""

    def _around(self, role: str) -> tuple[list[Message], list[Message]]:
        """What stands before and behind the role in a conversation whose order of roles templates allow."""
        user = self._other("user")
        if role in {"system", "developer"}:
            return [], [user]
        if role == "assistant":
            return [user], []
        return [user, {**self._other("assistant"), "tool_calls": [_CALL]}], []

    def _other(self, role: str) -> Message:
        content = _OTHER if self.forms(role).text else typed((Part("text", _OTHER),))
        return {"role": role, "content": content}


_WORD = "4815162342108"
"""Digits: no filter of letters or spaces changes them."""
_OTHER = "0"
_LEFT_OUT = "it leaves out the words"
_PRINTED = re.compile(rf"""["']text["']\s*:\s*["']{_WORD}""")
"""A list of parts as Python or JSON prints it."""
_CALL = {"type": "function", "id": "tool00000", "function": {"name": "tool", "arguments": {}}}
_EXTRA = {"tool": {"name": "tool", "tool_call_id": "tool00000"}}
"""Some templates answer only to a call of this name and id (nine characters)."""


def typed(parts: Sequence[Part]) -> list[dict[str, str]]:
    """Parts as templates know them. At least one: templates look at the first."""
    parts = parts or (Part("text"),)
    return [{"type": "text", "text": part.text} if part.kind == "text" else {"type": part.kind} for part in parts]


def without_media(message: Message) -> Message:
    """The same turn with an empty text in place of each medium."""
    content = message["content"]
    if isinstance(content, str):
        return message
    return {**message, "content": [item if item["type"] == "text" else typed(())[0] for item in content]}


def plain(value: object, what: str) -> Any:
    """A copy in JSON's own types, so that a template meets no object with methods; `what` names it in errors.

    Raises:
        SampleError: `template_extra`, it holds something else.
    """
    try:
        return _plain(value)
    except (TypeError, RecursionError) as exc:
        raise SampleError("template_extra", f"{what}: expected JSON values, got {exc}") from exc


def _plain(value: object) -> Any:
    if value is None or type(value) in {str, int, float, bool}:
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise TypeError(f"a value of type {type(value).__name__}")
