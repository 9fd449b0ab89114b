"""The turns of a conversation, in both spellings: `{role, content}` and `{from, value}`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from owl_stream.errors import SampleError
from owl_stream.records import fields as vocabulary
from owl_stream.records.document import check_text, kind
from owl_stream.records.options import RecordOptions
from owl_stream.records.parts import joined_parts
from owl_stream.records.tools import Json, calls_of_text, read_calls

CALL = "tool_call"
"""The role of a turn that is nothing but calls, as ms-swift and LLaMA-Factory write them; `order.py` resolves it."""

_ROLE_OF = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_call": CALL,
    "tool_call": CALL,
}
_ROLES = ("system", "user", "assistant", "tool")
_SPEAKERS = (*_ROLES, "human", "gpt", "observation", "function_call")
_TOOL_ROLES = frozenset(("tools", "function", "tool_calls", "tool_result", "ipython"))
_PLAIN_TURN = 2
"""Fields of a turn that says who speaks and what, and nothing else."""


class Message(NamedTuple):
    """One turn. `role` is system, user, assistant or tool; a user's or tool's `content` holds the markers of media.

    `learned`: whether an assistant's turn is learned; where it is not, its labels are -100. `calls`: its calls of
    tools, as chat templates take them. `reasoning`: its thoughts. `call_id`, `name`: which call a tool's turn answers.
    """

    role: str
    content: str
    learned: bool = True
    calls: tuple[Json, ...] = ()
    reasoning: str = ""
    call_id: str = ""
    name: str = ""


def read_turns(turns: object, field: str, options: RecordOptions, notes: dict[str, None]) -> list[Message]:
    """The turns of a list; adds to `notes`.

    Raises:
        SampleError: not a list of turns, an unknown role, a field of a turn that cannot be honoured.
    """
    if not isinstance(turns, list):
        raise SampleError("record_type", f"`{field}`: expected a list, got {kind(turns)}")
    if not turns:
        raise SampleError("record_empty", f"`{field}` is empty")
    return [_read_turn(turn, field, at, options, notes) for at, turn in enumerate(turns)]


def looks_like_turns(value: object) -> bool:
    """Whether a value is a list of turns, however its field may be spelt."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, dict)
            and any(name in turn for name in vocabulary.ROLE)
            and any(name in turn for name in (*vocabulary.TEXT, vocabulary.CALLS))
            for turn in value
        )
    )


def _read_turn(turn: object, field: str, at: int, options: RecordOptions, notes: dict[str, None]) -> Message:
    if not isinstance(turn, dict):
        raise SampleError("record_type", f"{field}[{at}]: expected an object, got {kind(turn)}")
    where = f"{field}[{at}]"
    expected = ("from", "value") if field == "conversations" else ("role", "content")
    plain = len(turn) == _PLAIN_TURN and expected[0] in turn and expected[1] in turn
    if not plain:
        vocabulary.refuse_turn(turn, f"{where}: ")
    role_field = _one_of(turn, vocabulary.ROLE, expected[0], where)
    role = _role(turn[role_field], role_field, where)
    calls = () if plain else _calls(turn, role, where)
    content, text_field = _text(turn, expected[1], where, may_be_missing=bool(calls))
    if role == CALL:
        message = Message(role, "", calls=calls_of_text(content, f"{where}.{text_field}"))
    else:
        message = Message(role, content, calls=calls)
    if plain:
        return message
    notes.update(dict.fromkeys(vocabulary.judge_turn(turn, f"{where}: ", options, result=role == "tool")))
    call_id, name = (_linked(turn, field, role, where) for field in vocabulary.RESULT)
    learned, reasoning = _learned(turn, role, where), _reasoning(turn, role, where)
    return message._replace(learned=learned, reasoning=reasoning, call_id=call_id, name=name)


def _text(turn: Mapping[str, Any], expected: str, where: str, *, may_be_missing: bool) -> tuple[str, str]:
    """What a turn says, and the field that says it."""
    if may_be_missing and all(turn.get(name) is None for name in vocabulary.TEXT):
        return "", expected
    field = _one_of(turn, vocabulary.TEXT, expected, where)
    content = turn[field]
    if isinstance(content, list):
        content = joined_parts(content, f"{where}.{field}")
    if not isinstance(content, str):
        raise SampleError("record_type", f"{where}.{field}: expected a string, got {kind(content)}")
    check_text(content, lambda: f"{where}.{field}")
    return content, field


def _calls(turn: Mapping[str, Any], role: str, where: str) -> tuple[Json, ...]:
    given = turn.get(vocabulary.CALLS)
    if vocabulary.is_empty(given):
        return ()
    if role != "assistant":
        raise SampleError("tools_unsupported", f"{where}: `tool_calls` of a {role} turn; only an assistant's calls")
    return read_calls(given, f"{where}.tool_calls")


def _linked(turn: Mapping[str, Any], field: str, role: str, where: str) -> str:
    """`tool_call_id` or `name` of a tool's turn; the name of another speaker is none."""
    value = turn.get(field)
    if vocabulary.is_empty(value) or (role != "tool" and field == "name"):
        return ""
    if role != "tool":
        detail = f"{where}: `{field}` of a {role} turn; only a tool's turn answers a call"
        raise SampleError("tools_unsupported", detail)
    if not isinstance(value, str):
        raise SampleError("record_type", f"{where}.{field}: expected a string, got {kind(value)}")
    check_text(value, lambda: f"{where}.{field}")
    return value


def _reasoning(turn: Mapping[str, Any], role: str, where: str) -> str:
    said = {name: _thought(turn[name], f"{where}.{name}") for name in vocabulary.REASONING if name in turn}
    said = {name: thought for name, thought in said.items() if thought}
    if len(set(said.values())) > 1:
        raise SampleError("record_ambiguous", f"{where}: {' and '.join(said)} say different things; keep one")
    if said and role not in ("assistant", CALL):
        raise SampleError("thinking_unsupported", f"{where}: `{next(iter(said))}` of a {role} turn; only answers think")
    return next(iter(said.values()), "")


def _thought(value: object, where: str) -> str:
    if value is False or (not isinstance(value, str) and vocabulary.is_empty(value)):
        return ""
    if not isinstance(value, str):
        raise SampleError("record_type", f"{where}: expected a string, got {kind(value)}")
    check_text(value, lambda: where)
    return value if value.strip() else ""


def _one_of(turn: Mapping[str, Any], names: Iterable[str], expected: str, where: str) -> str:
    present = [name for name in names if name in turn]
    if len(present) > 1:  # tables have both columns, and null in one of them
        present = [name for name in present if turn[name] is not None] or present[:1]
    if len(present) == 1:
        return present[0]
    if present:
        raise SampleError("record_ambiguous", f"{where}: both `{present[0]}` and `{present[1]}`; keep one")
    near = vocabulary.nearest((expected,), turn)
    hint = f"got `{near[0]}`: did you mean `{near[1]}`?" if near else f"got {vocabulary.names(turn)}"
    raise SampleError("record_field", f"{where}: expected the field `{expected}`, {hint}")


def _role(role: object, name: str, where: str) -> str:
    if not isinstance(role, str):
        raise SampleError("record_type", f"{where}.{name}: expected a string, got {kind(role)}")
    if role in _ROLE_OF:
        return _ROLE_OF[role]
    if role.lower() in _TOOL_ROLES:
        remedy = "write a call as `tool_calls` of an assistant's turn, and its result as a turn of the role `tool`"
        raise SampleError("tools_unsupported", f"{where}.{name}: got {role!r}; {remedy}")
    valid = _ROLES if name == "role" else _SPEAKERS
    near = difflib.get_close_matches(role[:64].lower(), valid, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise SampleError("record_role", f"{where}.{name}: expected {', '.join(valid)}, got {role[:64]!r}{hint}")


def _learned(turn: Mapping[str, Any], role: str, where: str) -> bool:
    said = {name: turn[name] for name in vocabulary.LEARNED if turn.get(name) is not None}
    for name, value in said.items():
        if value not in (0, 1) or not isinstance(value, bool | int | float):
            detail = f"{where}.{name}: expected true or false, or 1 or 0, got {str(value)[:40]!r}"
            raise SampleError("turn_weight", f"{detail}: an answer is learned, or it is not")
    values = {bool(value) for value in said.values()}
    if len(values) > 1:
        raise SampleError("record_ambiguous", f"{where}: {' and '.join(said)} contradict each other; keep one")
    if role != "assistant" and True in values:
        raise SampleError("turn_weight", f"{where}: a {role} turn cannot be learned; only an assistant's can")
    return values != {False}
