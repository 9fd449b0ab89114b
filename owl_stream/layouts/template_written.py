"""What a conversation says beside its plain turns must be in its text: a template leaves out what it does not know.

It says nothing of that: tools, calls of them, words beside a call, results and thoughts are then not there. What was
left out is known by the text, which is the same without it. One rendering tells of nearly all of them: each is put into
it as a word of its own, and whichever word is in its text is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from owl_stream.errors import SampleError
from owl_stream.layouts.template_turns import REASONING, ChatMessage, Part

Tools = Sequence[Mapping[str, Any]] | None
Render = Callable[[Sequence[ChatMessage], Tools], str]

_WORD = "4815162342{:09d}"
"""Digits: no filter of letters or spaces changes them."""


class _Piece(NamedTuple):
    """Something that a template may leave out: what it is, where, and the call's number."""

    what: str
    message: int
    call: int = 0


def check_written(
    messages: Sequence[ChatMessage], tools: Tools, text: str, learned: Mapping[int, bool], render: Render
) -> None:
    """Refuse a conversation of which `text`, what the template made of it, leaves something out.

    `learned`: for each assistant turn whether it is learned. Only the thoughts of those that are must be written: what
    became of earlier ones is the template's rule.

    Raises:
        SampleError: `template_tools`, of tools, calls and results; `template_thinking`, of thoughts.
    """
    if tools and _unchanged(text, messages, None, render):
        raise SampleError("template_tools", "expected no tools, which the chat template leaves out, got some")
    pieces = list(_pieces(messages, learned, has_tools=bool(tools)))
    if not pieces:
        return
    marked = list(messages)
    for number, piece in enumerate(pieces):
        marked[piece.message] = _changed(marked[piece.message], piece, _WORD.format(number))
    try:
        trial = render(marked, tools)
    except SampleError:
        trial = ""  # a template may know functions by their names
    for number, piece in enumerate(pieces):
        if _WORD.format(number) not in trial and _unchanged(text, _without(messages, piece), tools, render):
            raise _left_out(piece, messages)


def _pieces(messages: Sequence[ChatMessage], learned: Mapping[int, bool], *, has_tools: bool) -> Iterator[_Piece]:
    for at, message in enumerate(messages):
        calls = message.extra.get("tool_calls") or ()
        for number, call in enumerate(calls):
            yield _Piece("call", at, number)
            if (call.get("function") or call).get("arguments"):
                yield _Piece("arguments", at, number)
        if message.role == "tool":
            yield _Piece("result", at)
        elif (calls or (has_tools and message.role == "system")) and message.text.strip():
            yield _Piece("text", at)
        if learned.get(at) and any(message.extra.get(name) for name in REASONING):
            yield _Piece("reasoning", at)


def _changed(message: ChatMessage, piece: _Piece, word: str | None) -> ChatMessage:
    """The turn with a word in place of the piece, or without it."""
    extra = dict(message.extra)
    if piece.what == "reasoning":
        extra = {name: value for name, value in extra.items() if name not in REASONING}
        return replace(message, extra=extra if word is None else {**extra, "reasoning_content": word})
    if piece.what in ("call", "arguments"):
        calls = list(extra["tool_calls"])
        calls[piece.call : piece.call + 1] = _changed_call(calls[piece.call], piece.what, word)
        return replace(message, extra={**extra, "tool_calls": calls})
    media = [part for part in message.parts if part.kind != "text"]
    return replace(message, parts=(Part("text", word or ""), *media))


def _changed_call(call: Mapping[str, Any], what: str, word: str | None) -> list[Mapping[str, Any]]:
    """The call with a word in place of its name or its arguments, or without arguments, or no call."""
    function = call.get("function") or call
    if what == "call":
        changed = None if word is None else {**function, "name": word}
    elif isinstance(function["arguments"], str):
        changed = {**function, "arguments": word or ""}
    else:
        changed = {**function, "arguments": {} if word is None else {word: word}}
    if changed is None:
        return []
    return [changed if function is call else {**call, "function": changed}]


def _without(messages: Sequence[ChatMessage], piece: _Piece) -> Sequence[ChatMessage]:
    message = messages[piece.message]
    if piece.what == "result" and not message.text.strip():
        return [*messages[: piece.message], *messages[piece.message + 1 :]]
    changed = _changed(message, piece, None)
    return [*messages[: piece.message], changed, *messages[piece.message + 1 :]]


def _unchanged(text: str, messages: Sequence[ChatMessage], tools: Tools, render: Render) -> bool:
    """Whether the template writes the same without something; one that fails without it has looked at it."""
    try:
        return render(messages, tools) == text
    except SampleError:
        return False


def _left_out(piece: _Piece, messages: Sequence[ChatMessage]) -> SampleError:
    what = {
        "call": "tool calls",
        "arguments": "arguments of tool calls",
        "result": "result of a tool",
        "text": "text beside tools or calls",
        "reasoning": "thoughts (`reasoning_content`)",
    }[piece.what]
    reason = "template_thinking" if piece.what == "reasoning" else "template_tools"
    where = f"message {piece.message} ({messages[piece.message].role})"
    remedy = "; learn only the last answer (`train_on: last`), or remove it"
    detail = f"{where}: expected no {what}, which the chat template leaves out, got some"
    return SampleError(reason, detail + remedy * (piece.what == "reasoning"))
