"""Tools in a record: the functions that an assistant may call, and its calls.

Both go to the chat template as they are written, with their keys in the same order. Only JSON that is written as a text
becomes its value: `tools` and `arguments` often come as texts, and templates take objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from owl_stream.errors import SampleError
from owl_stream.records.document import check_inner, kind, parse_inner
from owl_stream.records.fields import is_empty

Json = dict[str, Any]

_CALL = ("function", "id", "index", "type")
_FUNCTION = ("arguments", "name")


def read_tools(value: object) -> tuple[Json, ...]:
    """The field `tools`: a list of schemas, or the same list as a text of JSON.

    Raises:
        SampleError: `record_type`, `tools_malformed` (no JSON, a tool without a name), or as `check_inner`.
    """
    if is_empty(value):
        return ()
    tools = _parsed(value, "`tools`")
    if not isinstance(tools, list):
        raise SampleError("record_type", f"`tools`: expected a list of schemas, got {kind(tools)}")
    schemas = tuple(_schema(tool, f"tools[{at}]") for at, tool in enumerate(tools))
    check_inner(list(schemas), "`tools`")
    return schemas


def read_calls(value: object, where: str) -> tuple[Json, ...]:
    """The field `tool_calls` of an assistant's turn: a list of `{type, id, function: {name, arguments}}`, or its JSON.

    Raises:
        SampleError: `record_type`, `tools_malformed`, or as `check_inner`.
    """
    given = _parsed(value, where)
    if not isinstance(given, list):
        raise SampleError("record_type", f"{where}: expected a list of calls, got {kind(given)}")
    calls = tuple(_call(call, f"{where}[{at}]") for at, call in enumerate(given))
    check_inner(list(calls), where)
    return calls


def calls_of_text(text: str, where: str) -> tuple[Json, ...]:
    """The calls of a turn whose text is one, or a list of them: `{"name": ..., "arguments": ...}`.

    Raises:
        SampleError: as `read_calls`; the text is no JSON.
    """
    value = parse_inner(text, where)
    given = value if isinstance(value, list) else [value]
    if not given:
        raise SampleError("tools_malformed", f"{where}: expected a call, got an empty list")
    wrapped = [
        call if isinstance(call, dict) and "function" in call else {"type": "function", "function": call}
        for call in given
    ]
    return read_calls(wrapped, where)


def check_results(calls: Sequence[Json], call_id: str, where: str) -> None:
    """The result with this id is one of these calls', where all of them have ids.

    Raises:
        SampleError: `tools_malformed`.
    """
    ids = [call.get("id") for call in calls]
    if call_id and all(ids) and call_id not in ids:
        known = ", ".join(repr(str(each)[:40]) for each in ids[:8])
        detail = f"{where}.tool_call_id: expected the id of a call before it ({known}), got {call_id[:40]!r}"
        raise SampleError("tools_malformed", detail)


def _schema(value: object, where: str) -> Json:
    schema = _object(_parsed(value, where), where)
    inner = schema.get("function")
    _check_name(schema if inner is None else _object(inner, f"{where}.function"), where)
    return schema


def _call(value: object, where: str) -> Json:
    call = _object(value, where)
    if "function" not in call:
        return _function(call, where)
    _check_keys(call, _CALL, where)
    if call.get("type") not in (None, "function"):
        raise SampleError("tools_malformed", f"{where}.type: expected function, got {str(call['type'])[:40]!r}")
    if not isinstance(call.get("id"), str | None):
        raise SampleError("record_type", f"{where}.id: expected a string, got {kind(call['id'])}")
    return {**call, "function": _function(_object(call["function"], f"{where}.function"), where)}


def _function(function: Json, where: str) -> Json:
    _check_keys(function, _FUNCTION, where)
    _check_name(function, where)
    given = function.get("arguments")
    arguments = {} if given is None or given == "" else _parsed(given, f"{where}: `arguments`")
    return {**function, "arguments": _object(arguments, f"{where}: `arguments`")}


def _parsed(value: object, where: str) -> object:
    return parse_inner(value, where) if isinstance(value, str) else value


def _object(value: object, where: str) -> Json:
    if not isinstance(value, dict):
        raise SampleError("tools_malformed", f"{where}: expected an object, got {kind(value)}")
    return value


def _check_name(function: Json, where: str) -> None:
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        got = f"`name` as {kind(name)}" if "name" in function and name != "" else "none"
        raise SampleError("tools_malformed", f"{where}: expected the function's `name`, got {got}")


def _check_keys(value: Json, known: Sequence[str], where: str) -> None:
    for name in _others(value, known):
        expected = ", ".join(f"`{each}`" for each in known)
        raise SampleError("tools_malformed", f"{where}: expected {expected}, got `{name[:64]}`")


def _others(value: Json, known: Sequence[str]) -> Iterator[str]:
    return (name for name in value if name not in known and not is_empty(value[name]))
