"""Tools, calls, results and thoughts: every form that is read, in shards and in pack, and what is refused by name.

Fault 94 of docs/faults.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from owl_stream.errors import DataError
from owl_stream.records import Message
from owl_stream.shards import Record
from tests.records.both import asked, detail, in_shard, packed, reason

TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"z": 1.50, "a": [1e5, None, True], "ü": "<ä> & \u2028"}},
}
CALL = {"function": {"arguments": {"z": "<ä>", "a": 1}, "name": "look"}, "id": "c1", "type": "function"}
OTHER = {"type": "function", "id": "c2", "function": {"name": "hear", "arguments": {}}}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "an owl"}


def spoken(*turns: dict[str, Any], tools: object = None) -> dict[str, Any]:
    """A record of a question, these turns, and an answer."""
    turns = ({"role": "user", "content": "a"}, *turns, {"role": "assistant", "content": "b"})
    return {"messages": list(turns), **({} if tools is None else {"tools": tools})}


def called(*calls: object, **more: Any) -> dict[str, Any]:
    """An assistant's turn of nothing but calls."""
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def both(record: dict[str, Any], tmp_path: Path) -> Record:
    """The record as a shard has it; what packing makes of it says the same."""
    read, again = in_shard(record), packed(record, tmp_path)
    assert isinstance(again, Record), again
    assert again.messages == read.messages
    assert json.dumps(again.tools) == json.dumps(read.tools)
    assert json.dumps([message.calls for message in again.messages]) == json.dumps([m.calls for m in read.messages])
    return read


def test_a_conversation_with_tools_is_read_as_it_is_written(tmp_path: Path) -> None:
    """Schemas and calls with their keys in the same order; ids, names and thoughts; null is no text."""
    record = spoken(
        called(CALL, OTHER, reasoning_content="Hm."),
        RESULT,
        {**RESULT, "tool_call_id": "c2", "name": "hear", "content": [{"type": "text", "text": "a hoot"}]},
        tools=[TOOL, {"name": "bare"}],
    )
    read = both(record, tmp_path)
    assert read.messages == (
        Message("user", "a"),
        Message("assistant", "", calls=(CALL, OTHER), reasoning="Hm."),
        Message("tool", "an owl", call_id="c1", name="look"),
        Message("tool", "a hoot", call_id="c2", name="hear"),
        Message("assistant", "b"),
    )
    assert json.dumps(read.tools) == json.dumps([TOOL, {"name": "bare"}])
    assert json.dumps(read.messages[1].calls) == json.dumps([CALL, OTHER])
    assert read.notes == ()


@pytest.mark.parametrize("written", ['[{"name": "look", "parameters": {"b": 1.0, "a": 2}}]', ['{"name": "look"}']])
def test_tools_may_be_a_text_of_json(written: object, tmp_path: Path) -> None:
    """The whole list, or each tool, as tables hold them."""
    whole = json.loads(written) if isinstance(written, str) else [json.loads(each) for each in written]  # type: ignore[attr-defined]
    assert json.dumps(both(spoken(tools=written), tmp_path).tools) == json.dumps(whole)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"b": 1, "a": 2}, {"b": 1, "a": 2}), ('{"b": 1, "a": 2}', {"b": 1, "a": 2}), ("", {}), (None, {}), ("{}", {})],
)
def test_arguments_become_an_object(arguments: object, expected: object, tmp_path: Path) -> None:
    """OpenAI writes them as a text of JSON, transformers as an object; templates take the object."""
    call = {"type": "function", "function": {"arguments": arguments, "name": "look"}}
    (got,) = both(spoken(called(call), RESULT), tmp_path).messages[1].calls
    assert json.dumps(got) == json.dumps({"type": "function", "function": {"arguments": expected, "name": "look"}})


def test_calls_may_be_a_text_of_json(tmp_path: Path) -> None:
    """As tables hold them."""
    text = {"role": "assistant", "content": None, "tool_calls": json.dumps([CALL])}
    assert json.dumps(both(spoken(text, RESULT), tmp_path).messages[1].calls) == json.dumps([CALL])


def test_calls_without_their_cover_stay_as_they_are(tmp_path: Path) -> None:
    """`{name, arguments}` in `tool_calls`, as some data sets have it: templates take it, or refuse it."""
    (call,) = both(spoken(called({"name": "look", "arguments": {"a": 1}}), RESULT), tmp_path).messages[1].calls
    assert call == {"name": "look", "arguments": {"a": 1}}


ONE, TWO = '{"name": "look", "arguments": {"z": 1}}', '{"name": "hear", "arguments": "{}"}'
CALLS = (
    {"type": "function", "function": {"name": "look", "arguments": {"z": 1}}},
    {"type": "function", "function": {"name": "hear", "arguments": {}}},
)


@pytest.mark.parametrize(
    "turns",
    [
        [("tool_call", ONE), ("tool_call", TWO), ("tool_response", "1"), ("tool_response", "2")],
        [("function_call", f"[{ONE}, {TWO}]"), ("observation", "1"), ("observation", "2")],
        [("tool_call", json.dumps(CALLS)), ("tool", "1"), ("observation", "2")],
    ],
    ids=["swift", "llamafactory", "wrapped"],
)
def test_calls_that_are_turns_are_one_turn_of_the_assistant(turns: list[tuple[str, str]], tmp_path: Path) -> None:
    """As ms-swift and LLaMA-Factory write them, with words before them or without."""
    record = {"conversations": [{"from": who, "value": said} for who, said in [("human", "a"), *turns, ("gpt", "b")]]}
    expected = (
        Message("user", "a"),
        Message("assistant", "", calls=CALLS),
        Message("tool", "1"),
        Message("tool", "2"),
        Message("assistant", "b"),
    )
    assert both(record, tmp_path).messages == expected
    record["conversations"].insert(1, {"from": "gpt", "value": "I look."})
    assert both(record, tmp_path / "2").messages[1] == Message("assistant", "I look.", calls=CALLS)


def test_a_call_is_learned_or_not_as_its_words_are() -> None:
    """`loss: false` on a call; on half of an answer it is refused."""
    call = {"role": "tool_call", "content": ONE, "loss": False}
    record = spoken(call, {"role": "tool", "content": "1"})
    assert [message.learned for message in in_shard(record).messages] == [True, False, True, True]
    assert [m.learned for m in in_shard(spoken(called(CALL, loss=0), RESULT)).messages] == [True, False, True, True]
    record["messages"].insert(1, {"role": "assistant", "content": "I look."})
    assert reason(record) == "turn_weight"
    assert reason(spoken(called(CALL), {**RESULT, "loss": True})) == "turn_weight"


def test_the_last_turn_may_be_a_call() -> None:
    """There is something to learn in it."""
    record = {"messages": [{"role": "user", "content": "a"}, called(CALL)]}
    assert in_shard(record).messages[-1].calls == (CALL,)
    record["messages"][1] = {"role": "tool_call", "content": ONE}
    assert in_shard(record).messages[-1] == Message("assistant", "", calls=CALLS[:1])


CALLING, PLAIN, QUESTION = called(CALL), {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([RESULT], "turn 1: expected assistant, got tool"),
        ([PLAIN, RESULT], "turn 2: expected user, got tool"),
        ([CALLING], "turn 2: expected tool, got assistant"),
        ([CALLING, CALLING], "turn 2: expected tool, got assistant"),
        ([CALLING, QUESTION], "turn 2: expected tool, got user"),
        ([CALLING, RESULT, QUESTION], "turn 3: expected tool or assistant, got user"),
        ([PLAIN], "turn 2: expected user, got assistant"),
    ],
)
def test_results_stand_behind_their_calls(turns: list[dict[str, Any]], said: str) -> None:
    """And an answer behind them; several rounds of both before it are fine."""
    record = spoken(*turns)
    assert (reason(record), detail(record)) == ("record_order", said)
    rounds = [CALLING, RESULT, called(CALL, OTHER, content="And?"), RESULT, {**RESULT, "tool_call_id": "c2"}]
    assert len(in_shard(spoken(*rounds)).messages) == 7
    asked_last = {"messages": spoken(CALLING, RESULT)["messages"][:-1]}
    assert detail(asked_last) == "expected the last turn to be the assistant's, got tool"


FUNCTION = {"name": "f", "arguments": {}}


@pytest.mark.parametrize(
    ("turn", "expected", "said"),
    [
        (called(3), "tools_malformed", "tool_calls[0]: expected an object, got a number"),
        (called({"function": {}, "id": "1"}), "tools_malformed", "tool_calls[0]: expected the function's `name`"),
        (called({"function": {"name": 3}}), "tools_malformed", "got `name` as a number"),
        (called({"function": {**FUNCTION, "arguments": "look"}}), "tools_malformed", "`arguments`: expected JSON in"),
        (called({"function": {**FUNCTION, "arguments": "[1]"}}), "tools_malformed", "expected an object, got a list"),
        (called({"function": {**FUNCTION, "arguments": '{"a": NaN}'}}), "tools_malformed", "NaN is no JSON number"),
        (called({"function": {**FUNCTION, "arguments": '{"a": 1, "a": 2}'}}), "tools_malformed", "'a' comes twice"),
        (called({"function": {**FUNCTION, "arguments": 7}}), "tools_malformed", "expected an object, got a number"),
        (called({"function": {"name": "f", "parameters": {"a": 1}}}), "tools_malformed", "got `parameters`"),
        (called({"function": FUNCTION, "result": 1}), "tools_malformed", "`index`, `type`, got `result`"),
        (called({"function": FUNCTION, "type": "custom"}), "tools_malformed", "type: expected function, got 'custom'"),
        (called({"function": FUNCTION, "id": 1}), "record_type", "id: expected a string, got a number"),
        ({"role": "assistant", "content": "", "tool_calls": {"name": "f"}}, "record_type", "expected a list of calls"),
        ({"role": "tool_call", "content": "look"}, "tools_malformed", "messages[1].content: expected JSON in the text"),
        ({"role": "tool_call", "content": "[]"}, "tools_malformed", "expected a call, got an empty list"),
        ({"role": "tool_call", "content": '"look"'}, "tools_malformed", "expected an object, got a string"),
        ({"role": "assistant", "content": None}, "record_type", "messages[1].content: expected a string, got null"),
        ({"role": "tool", "content": None}, "record_type", "messages[1].content: expected a string, got null"),
        ({"role": "tool", "content": "x", "tool_call_id": 3}, "record_type", "tool_call_id: expected a string"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "tools_unsupported", "`tool_calls` of a user turn"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "tools_unsupported", "`tool_call_id` of a user turn"),
        ({"role": "user", "content": "x", "thinking": "Hm."}, "thinking_unsupported", "`thinking` of a user turn"),
        ({**PLAIN, "reasoning_content": ["Hm."]}, "record_type", "reasoning_content: expected a string, got a list"),
        ({**PLAIN, "reasoning": "Hm.", "thinking": "Oh."}, "record_ambiguous", "thinking and reasoning say different"),
        ({**PLAIN, "toolCalls": [CALL]}, "record_field", "got `toolCalls`: did you mean `tool_calls`?"),
        ({**PLAIN, "tools": [TOOL]}, "tools_unsupported", "`tools` cannot be honoured: write schemas in `tools` of"),
    ],
)
def test_a_turn_that_nobody_can_read_is_refused_by_name(
    turn: dict[str, Any], expected: str, said: str, tmp_path: Path
) -> None:
    """In a shard and in pack; the place and what was expected are named."""
    record = spoken(turn)
    assert reason(record) == expected
    assert said in detail(record)
    assert packed(record, tmp_path) == expected


@pytest.mark.parametrize(
    ("tools", "expected", "said"),
    [
        ("look", "tools_malformed", "`tools`: expected JSON in the text, got 'look'"),
        ('{"name": "f"}', "record_type", "`tools`: expected a list of schemas, got an object"),
        ([["f"]], "tools_malformed", "tools[0]: expected an object, got a list"),
        ([{"description": "f"}], "tools_malformed", "tools[0]: expected the function's `name`, got none"),
        ([{"function": {"parameters": 3}}], "tools_malformed", "tools[0]: expected the function's `name`"),
        ([{"name": "f", "x": "\0"}], "text_nul", "`tools` holds a NUL"),
        ([{"name": "f", "\ud800": 1}], "text_surrogate", "`tools` holds half a surrogate pair"),
        ('[{"name": "f", "x": 1e999}]', "json_malformed", "`tools`: expected numbers that are finite, got inf"),
        (f'[{{"name": "f", "x": {"[" * 60}{"]" * 60}}}]', "json_nesting", "nested deeper than 56"),
        ("[" * 9999, "tools_malformed", "`tools`: expected JSON in the text"),
    ],
)
def test_tools_that_nobody_can_read_are_refused_by_name(
    tools: object, expected: str, said: str, tmp_path: Path
) -> None:
    """What they are made of is bounded and can be written as text."""
    record = spoken(tools=tools)
    assert reason(record) == expected
    assert said in detail(record)
    assert packed(record, tmp_path) == expected


def test_a_result_of_no_call_is_refused() -> None:
    """Where all calls of the round have ids; calls without ids are answered in their order."""
    assert "expected the id of a call before it ('c1'), got 'c9'" in detail(
        spoken(CALLING, {**RESULT, "tool_call_id": "c9"})
    )
    round_of_another = spoken(
        called(OTHER), {**RESULT, "tool_call_id": "c2"}, CALLING, {**RESULT, "tool_call_id": "c2"}
    )
    assert reason(round_of_another) == "tools_malformed"
    assert in_shard(spoken(called({"function": FUNCTION}), RESULT)).messages[2].call_id == "c1"


def test_what_is_empty_says_nothing() -> None:
    """Columns of tables: no tools, no calls, no thoughts, no ids; a speaker's name is counted as unknown."""
    nothing = {"tool_calls": [], "tool_call_id": None, "reasoning_content": " \n", "thinking": False, "reasoning": None}
    record = {
        "messages": [{**turn, **nothing} for turn in asked("a")["messages"]],
        "tools": "[]",
        "tool_choice": "auto",
    }
    assert in_shard(record) == in_shard(asked("a"))
    named = {"messages": [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}]}
    assert in_shard(named).notes == ("unknown_turn_field:name",)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_have_the_names_that_transformers_knows(name: str, tmp_path: Path) -> None:
    """Each is the same."""
    record = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", name: " Hm.\n"}]}
    assert both(record, tmp_path).messages[1].reasoning == " Hm.\n"


@pytest.mark.parametrize("role", ["tool", "tool_response"])
def test_a_tool_may_return_images(role: str, tmp_path: Path) -> None:
    """Marked in its turn, or as a typed part of it."""
    for content in ("<image>an owl", [{"type": "image"}, {"type": "text", "text": "an owl"}]):
        record = spoken(called(CALL), {"role": role, "content": content}) | {"images": ["0.jpg"]}
        assert in_shard(record, 1).messages[2].content == "<|image|>an owl"
        again = packed(record, tmp_path)
        assert isinstance(again, Record)
        assert again.messages == in_shard(record, 1).messages


@pytest.mark.parametrize("text", ["<image>", "<|video|>", "<|image_pad|>", "<image_1>"])
def test_a_marker_in_thoughts_calls_or_tools_is_refused(text: str) -> None:
    """No medium can stand there, and as text it would be learned; `literal_markers` makes other tools' text."""
    call = {"function": {"name": "look", "arguments": {"at": text}}}
    for record, where in (
        (spoken(called(call), RESULT), "a call of turn 1 holds"),
        (spoken({**PLAIN, "reasoning": text}, QUESTION), "the reasoning of turn 1 holds"),
        (spoken(tools=[{"name": "f", "description": text}]), "`tools` holds"),
    ):
        assert reason(record) in ("marker_role", "marker_unknown")
        assert detail(record).startswith(where)
        if text != "<|video|>":
            assert in_shard({**record, "literal_markers": True}).messages


def test_tools_beside_a_caption_are_refused(tmp_path: Path) -> None:
    """A caption has no room for them."""
    from owl_stream.pack import PackSettings, pack
    from tests.support.tars import picture

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.jpg").write_bytes(picture(8, 8, 0))
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.jpg", "text": "a", "tools": [TOOL]}))
    with pytest.raises(DataError, match="both a caption and `tools`; write the record as `messages`"):
        pack(PackSettings(inputs=(tmp_path / "in",), out=tmp_path / "out"), workers=1)
