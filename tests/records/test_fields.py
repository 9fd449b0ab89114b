"""Every field is honoured, known and harmless, refused by name, or counted as unknown; in shards and in pack alike.

Faults 91, 92, 93, 94, 95 and 96 of docs/faults.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from owl_stream.errors import SampleError
from owl_stream.records import RecordOptions
from tests.records.both import asked, detail, in_shard, learned, messages, packed, reason, turns_of

CHAT = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
SYSTEM_FIRST = [("system", "Answer in French."), ("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message", "system_instruction"])
@pytest.mark.parametrize("record", [{"conversations": CHAT}, asked("a"), {"query": "a", "response": "b"}])
def test_a_system_prompt_beside_the_turns_is_the_first_turn(record: dict[str, Any], name: str, tmp_path: Path) -> None:
    """Under its usual names, in every form."""
    said = {**record, name: "Answer in French."}
    assert turns_of(in_shard(said)) == SYSTEM_FIRST
    assert turns_of(packed(said, tmp_path)) == SYSTEM_FIRST


def test_two_system_prompts_are_refused_unless_they_are_one() -> None:
    """Neither is dropped."""
    twice = messages(("system", "Answer in French."), ("user", "a"), ("assistant", "b"), system="Answer in French.")
    assert turns_of(in_shard(twice)) == SYSTEM_FIRST
    assert reason({**twice, "system": "Answer in German."}) == "record_ambiguous"
    assert reason({**asked("a"), "system": "x", "system_prompt": "y"}) == "record_ambiguous"
    assert turns_of(in_shard({**twice, "system": None}))[0] == SYSTEM_FIRST[0]


@pytest.mark.parametrize(
    "said",
    [
        {"loss": False},
        {"weight": 0},
        {"loss": 0.0},
        {"train": False},
        {"loss_scale": 0},
        {"training": False},
        {"loss_mask": 0},
    ],
)
def test_an_answer_that_is_not_to_be_learned_is_not(said: dict[str, Any], tmp_path: Path) -> None:
    """Per turn; the other answers are learned as ever."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "no", **said}]
    turns += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "yes", "loss": True}]
    assert learned(in_shard({"messages": turns})) == ["yes"]
    assert learned(packed({"messages": turns}, tmp_path)) == ["yes"]
    assert learned(in_shard({"conversations": [*CHAT[:1], {**CHAT[1], **said}, *CHAT]})) == ["b"]


@pytest.mark.parametrize("said", [{"loss": 0.5}, {"weight": 2}, {"loss": "false"}, {"loss": False, "weight": 1}])
def test_a_weight_that_is_neither_nothing_nor_all_is_refused(said: dict[str, Any]) -> None:
    """An answer is learned or it is not."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **said}]
    assert reason({"messages": turns}) in ("turn_weight", "record_ambiguous")


def test_a_question_cannot_be_learned() -> None:
    """`"loss": false` there says what is so anyway."""
    for said, fine in ((True, False), (False, True)):
        turns = [{"role": "user", "content": "a", "loss": said}, {"role": "assistant", "content": "b"}]
        if fine:
            assert learned(in_shard({"messages": turns})) == ["b"]
        else:
            assert reason({"messages": turns}) == "turn_weight"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"kto_tag": False}, "preference_pair"),
        ({"kto_tag": True}, "preference_pair"),
        ({"label": False}, "preference_pair"),
        ({"label": "False"}, "preference_pair"),
        ({"rejected_response": "No."}, "preference_pair"),
        ({"rejectedResponse": "No."}, "preference_pair"),
        ({"rejected_messages": [{"role": "assistant", "content": "x"}]}, "preference_pair"),
        ({"chosen": "x", "rejected": "y"}, "preference_pair"),
        ({"tools": '[{"name": "f"}'}, "tools_malformed"),
        ({"Tools": [{"name": "f"}]}, "record_field"),
        ({"tool_calls": [{"name": "f"}]}, "tools_unsupported"),
        ({"tool_choice": "required"}, "tools_unsupported"),
        ({"functions": [{"name": "f"}]}, "tools_unsupported"),
        ({"reasoning_content": "Hm."}, "thinking_unsupported"),
        ({"thinking": "Hm."}, "thinking_unsupported"),
        ({"audio": "x.wav"}, "media_unsupported"),
        ({"audios": ["x.wav"]}, "media_unsupported"),
        ({"video": "x.mp4"}, "media_unsupported"),
        ({"videos": ["x.mp4"]}, "media_unsupported"),
        ({"video_path": "x.mp4"}, "media_unsupported"),
        ({"loss": False}, "record_weight"),
        ({"weight": 0.3}, "record_weight"),
        ({"mask_history": True}, "loss_mask"),
        ({"loss_mask": [0, 1]}, "record_weight"),
        ({"label_mask": False}, "loss_mask"),
        ({"Label": False}, "preference_pair"),
        ({"history": [["x", "y"]]}, "record_ambiguous"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "template_unsupported"),
        ({"sytem": "Answer in French."}, "record_field"),
        ({"System": "Answer in French."}, "record_field"),
        ({"imges": ["0.jpg"]}, "record_field"),
    ],
)
def test_what_changes_the_meaning_and_cannot_be_honoured_is_refused_by_name(
    field: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """In a shard and in pack; the field is named, and what to do."""
    assert reason({**asked("a"), **field}) == expected
    assert packed({**asked("a"), **field}, tmp_path) == expected
    assert f"`{next(iter(field))}" in detail({**asked("a"), **field})


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"role": "function", "content": "42"}, "tools_unsupported"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, "tools_malformed"),
        ({"role": "assistant", "content": "b", "function_call": {"name": "f"}}, "tools_unsupported"),
        ({"role": "assistant", "content": "b", "thoughts": "Hm."}, "thinking_unsupported"),
        ({"from": "ipython", "value": "42"}, "tools_unsupported"),
        ({"role": "user", "content": "a", "images": ["0.jpg"]}, "media_in_turn"),
        ({"role": "assistant", "content": "b", "rejected": "c"}, "preference_pair"),
        ({"role": "assistant", "content": "b", "Loss": False}, "record_field"),
        ({"role": "assistant", "content": "b", "masked": True}, "loss_mask"),
        ({"role": "assistant", "content": "b", "ignore": True}, "loss_mask"),
    ],
)
def test_what_a_turn_says_and_cannot_be_honoured_is_refused_by_name(
    turn: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """Tools, thinking, media and preferences inside of a turn."""
    record = {"messages": [{"role": "user", "content": "a"}, turn, {"role": "assistant", "content": "b"}]}
    assert reason(record) == expected
    assert packed(record, tmp_path) == expected


def test_empty_fields_say_nothing() -> None:
    """Tables have a column in every row: null, empty, or neutral values refuse no sample."""
    nothing = {"tools": [], "functions": None, "rejected_response": "", "kto_tag": None, "label": None, "system": ""}
    nothing |= {"audio": None, "videos": [], "objects": {"ref": [], "bbox": []}, "weight": 1, "loss": True, "image": ""}
    nothing |= {"tool_choice": "auto", "mask_history": False, "chosen": None, "custom": {"a": []}}
    record = in_shard({**asked("a"), **nothing})
    assert turns_of(record) == [("user", "a"), ("assistant", "b")]
    assert record.notes == ()
    turn = {
        "role": "assistant",
        "content": "b",
        "tool_calls": None,
        "refusal": None,
        "reasoning_content": "",
        "loss": None,
    }
    assert learned(in_shard({"messages": [{"role": "user", "content": "a"}, turn]})) == ["b"]


def test_a_class_or_a_score_is_harmless() -> None:
    """Fields that say nothing about what is to be learned."""
    harmless = {
        "id": 7,
        "source": "coco",
        "url": "http://h/x",
        "score": 0.9,
        "label": 3,
        "message_id": "x",
        "split": "t",
    }
    assert in_shard({**asked("a"), **harmless}).notes == ()


def test_unknown_fields_are_counted_or_refused(tmp_path: Path) -> None:
    """Of records and of turns, each name once a record; `refuse` names the field."""
    record = {**asked("a"), "difficulty": 3, "hint": "x"}
    record["messages"][0]["mood"] = "glad"
    record["messages"][1]["mood"] = "sad"
    expected = ("unknown_field:difficulty", "unknown_field:hint", "unknown_turn_field:mood")
    assert in_shard(record).notes == expected
    strict = RecordOptions(on_unknown_field="refuse")
    assert reason(record, options=strict) == "unknown_field"
    assert packed(record, tmp_path, on_unknown_field="refuse") == "unknown_field"
    in_shard({**asked("a"), "id": 1}, options=strict)


def test_both_spellings_of_turns_are_read_under_either_name() -> None:
    """`messages` with from and value, `conversations` with role and content, and a bare list of either."""
    spoken = [("user", "a"), ("assistant", "b")]
    for record in ({"messages": CHAT}, {"conversations": asked("a")["messages"]}, CHAT, asked("a")["messages"]):
        assert turns_of(in_shard(record)) == spoken
    assert reason([{"bbox": [1]}]) == "record_field"
    assert reason([1, 2]) == reason([]) == reason("x") == "json_malformed"


def test_a_bare_list_of_turns_is_packed(tmp_path: Path) -> None:
    """A JSON file may be a list of lists."""
    assert turns_of(packed(CHAT, tmp_path)) == [("user", "a"), ("assistant", "b")]


def test_the_nearest_guess_is_never_a_field_of_its_own() -> None:
    """`images` is no misspelt `messages`."""
    said = detail({"images": ["0.jpg"], "id": 1}, 1)
    assert said == "expected the field `messages` or `conversations`, got `images`, `id`"


def test_names_in_other_alphabets_are_no_known_fields() -> None:
    """Their letters count: `系统id` is no `id`."""
    assert in_shard({**asked("a"), "系统id": "Answer in French"}).notes == ("unknown_field:系统id",)


def test_a_text_in_quotes_is_a_system_prompt_whatever_it_says() -> None:
    """`null` as text is a text."""
    assert turns_of(in_shard({**asked("a"), "system": "null"}))[0] == ("system", "null")


def test_empty_columns_of_other_forms_are_no_second_conversation() -> None:
    """A table with the columns of several forms says only what is filled."""
    nothing = {"conversations": [], "query": "", "response": "", "history": "", "literal_markers": "", "images": [None]}
    assert turns_of(in_shard({**asked("a"), **nothing})) == [("user", "a"), ("assistant", "b")]
    turn = {"role": "user", "content": "a", "from": None, "value": None}
    record = {"messages": [turn, {"role": "assistant", "content": "b"}], "enable_thinking": False, "thinking": False}
    assert turns_of(in_shard(record)) == [("user", "a"), ("assistant", "b")]


def test_notes_that_are_too_many_are_counted_together() -> None:
    """What changes the text comes first."""
    record = in_shard({**asked("a"), **{f"extra field {n}": n + 1 for n in range(20)}}, 1)
    assert record.notes[0] == "image_in_front"
    assert record.notes[-1] == "other"


@pytest.mark.parametrize("turn", [False, True])
def test_a_record_of_endless_fields_is_refused_at_once(turn: bool) -> None:
    """Each would be compared with every name that is known."""
    record = asked("a")
    (record["messages"][0] if turn else record).update({f"field {n}": 1 for n in range(100_000)})
    assert reason(record) == "record_field"


def test_the_last_of_many_keys_that_comes_twice_is_found_in_one_pass() -> None:
    """However many there are before it."""
    from owl_stream.records import parse_json

    keys = ", ".join(f'"{n}": 1' for n in range(200_000))
    with pytest.raises(SampleError, match="'199999' comes twice"):
        parse_json(memoryview(f'{{{keys}, "199999": 2}}'.encode()))
