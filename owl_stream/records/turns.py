"""The turns of a conversation, in both spellings: `{role, content}` and `{from, value}`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from owl_stream.errors import SampleError
from owl_stream.records import fields as vocabulary
from owl_stream.records.document import check_text, kind
from owl_stream.records.options import RecordOptions

_ROLES = ("system", "user", "assistant")
_IN_TURN = ("user", "assistant")
_ROLE_OF = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_TOOL_ROLES = frozenset(
    (
        "tool",
        "tools",
        "function",
        "observation",
        "function_call",
        "tool_call",
        "tool_response",
        "tool_result",
        "ipython",
    )
)
_PLAIN_TURN = 2
"""Fields of a turn that says who speaks and what, and nothing else."""


class Message(NamedTuple):
    """One turn. `role` is system, user or assistant; a user's `content` holds the markers of media.

    `learned`: whether an assistant's turn is learned; where it is not, its labels are -100.
    """

    role: str
    content: str
    learned: bool = True


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
            and any(name in turn for name in vocabulary.TEXT)
            for turn in value
        )
    )


def check_order(roles: Sequence[str]) -> None:
    """Optionally a system turn, then user and assistant in turns, the assistant last.

    Raises:
        SampleError: another order.
    """
    behind_system = roles[1:] if roles[0] == "system" else roles
    first = len(roles) - len(behind_system)
    for at, got in enumerate(behind_system):
        if got != _IN_TURN[at % 2]:
            raise SampleError("record_order", f"turn {first + at}: expected {_IN_TURN[at % 2]}, got {got}")
    if roles[-1] != "assistant":
        raise SampleError("record_order", f"expected the last turn to be the assistant's, got {roles[-1]}")


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
    text_field = _one_of(turn, vocabulary.TEXT, expected[1], where)
    content = turn[text_field]
    if isinstance(content, list):
        content = _joined(content, f"{where}.{text_field}")
    if not isinstance(content, str):
        raise SampleError("record_type", f"{where}.{text_field}: expected a string, got {kind(content)}")
    check_text(content, lambda: f"{where}.{text_field}")
    if plain:
        return Message(role, content)
    notes.update(dict.fromkeys(vocabulary.judge_turn(turn, f"{where}: ", options)))
    return Message(role, content, _learned(turn, role, where))


def _joined(parts: list[object], where: str) -> str:
    """The text of typed parts, as transformers writes them: `{"type": "text", "text": ...}`, `{"type": "image"}`.

    Raises:
        SampleError: a part of another kind, or one that names a medium: media are listed for the whole record.
    """
    texts = []
    for at, part in enumerate(parts):
        place = f"{where}[{at}]"
        if not isinstance(part, dict):
            raise SampleError("record_type", f"{place}: expected an object with `type`, got {kind(part)}")
        of = part.get("type")
        known = _PARTS.get(of) if isinstance(of, str) else None
        if known is None:
            raise SampleError("record_type", f"{place}.type: expected {', '.join(_PARTS)}, got {str(of)[:40]!r}")
        named = sorted(
            str(name) for name in part if name not in ("type", "text") and not vocabulary.is_empty(part[name])
        )
        if named:
            raise SampleError(
                "turn_media",
                f"{place}: expected no `{named[0][:40]}`: list media in `images` or `videos` of the record",
            )
        if known:
            texts.append(known)
            continue
        text = part.get("text")
        if not isinstance(text, str):
            raise SampleError("record_type", f"{place}.text: expected a string, got {kind(text)}")
        texts.append(text)
    return "".join(texts)


_PARTS = {"text": "", "image": "<|image|>", "video": "<|video|>"}
"""What stands for a part in a turn's text: nothing of its own for text, our markers for media."""


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
        detail = f"{where}.{name}: got {role!r}, and there is no form for tools; write plain turns"
        raise SampleError("tools_unsupported", detail)
    valid = _ROLES if name == "role" else tuple(_ROLE_OF)
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
