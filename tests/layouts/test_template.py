"""Chat templates: texts are those of transformers, in whatever form a template takes its turns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owl_stream.errors import ConfigError
from owl_stream.layouts.template import ChatMessage, ChatTemplate
from tests.layouts.chats import (
    CALL,
    EVERY,
    KINDS,
    QWEN,
    TOKENS,
    TOOL,
    Kind,
    as_released,
    bare,
    each,
    learned,
    refused,
    released,
    released_marks,
    say,
    source,
    talk,
    template,
)

TEXTS = st.text("a <|é\n", max_size=6) | st.sampled_from(["An owl.", "</think>", "{{ x }}", "{'type': 'text'}"])


@st.composite
def conversations(draw: st.DrawFn, kind: Kind) -> list[ChatMessage]:
    """Turns in an order that the template allows, with media where it takes lists."""
    messages = [say("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        pieces = [draw(TEXTS) for _ in range(draw(st.integers(1, 2 if "user" in kind.lists else 1)))]
        if "user" in kind.lists and draw(st.booleans()):
            pieces.insert(draw(st.integers(0, len(pieces))), "<image>")
        messages.append(say("user", *pieces))
        for _ in range(1 if kind.alternating else draw(st.integers(0, 2))):
            extra = {"reasoning_content": draw(TEXTS)} if kind.thinks and draw(st.booleans()) else {}
            messages.append(say("assistant", draw(TEXTS), learned=draw(st.booleans()), **extra))
    return messages


def expected_characters(kind: Kind, messages: list[ChatMessage], chosen: list[int]) -> set[int]:
    """The learned characters, from nothing but transformers' texts and marks."""
    jinja, plain = source(kind.name), as_released(messages, kind.lists)
    if not kind.marked:
        before = {at: len(released(jinja, plain[:at], prompt=True)) for at in chosen}
        return {c for at in chosen for c in range(before[at], len(released(jinja, plain[: at + 1])))}
    answers = [at for at, message in enumerate(messages) if message.role == "assistant"]
    thinking = [at for at in answers if kind.name == "marked" and messages[at].extra.get("reasoning_content")]
    owners = zip(sorted([*answers, *thinking]), released_marks(jinja, plain), strict=True)
    return {c for at, (begin, end) in owners if at in chosen for c in range(begin, end)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_conversation_reads_as_transformers_writes_it(kind: Kind, data: st.DataObject) -> None:
    """Text, and learned characters, are those of `render_jinja_template`, turn by turn and for `all` and `last`."""
    messages = data.draw(conversations(kind))
    train_on = data.draw(st.sampled_from(["all", "last"]))
    chat = template(kind.name).render(messages, train_on=train_on)
    assert chat.text == released(source(kind.name), as_released(messages, kind.lists))
    answers = [at for at, message in enumerate(messages) if message.role == "assistant"]
    chosen = [at for at in (answers if train_on == "all" else answers[-1:]) if messages[at].learned]
    characters = {at for begin, end in chat.learned for at in range(begin, end)}
    assert characters == expected_characters(kind, messages, chosen)
    edges = [edge for begin_and_end in chat.learned for edge in begin_and_end]
    assert edges == sorted(set(edges))


def test_qwen_reads_and_learns_as_written_here() -> None:
    """A whole conversation, spelt out: a system turn of the template's own, and answers with what closes them."""
    chat = template("qwen2_5_vl").render([say("user", "<image>", "What?"), say("assistant", "An owl.")])
    assert chat.text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
        "<|im_start|>assistant\nAn owl.<|im_end|>\n"
    )
    assert learned(chat) == ["An owl.<|im_end|>\n"]


def test_gemma_reads_and_learns_as_written_here() -> None:
    """The system turn goes into the first user turn, also an empty one, and texts are trimmed."""
    chat = template("gemma3").render(
        [say("system", ""), say("user", "<image>", " What? "), say("assistant", " Owls. ")]
    )
    assert chat.text == (
        "<bos><start_of_turn>user\n\n\n<start_of_image>What?<end_of_turn>\n<start_of_turn>model\nOwls.<end_of_turn>\n"
    )
    assert learned(chat) == ["Owls.<end_of_turn>\n"]


def test_tools_calls_and_results_are_written_where_the_template_has_them() -> None:
    """Qwen3-VL's: schemas in the system turn, a call without words before it, and results in one user turn."""
    messages = [
        say("system", "Be kind."),
        say("user", "<image>", "What?"),
        say("assistant", tool_calls=[CALL, CALL]),
        say("tool", "an owl", tool_call_id="call00001"),
        say("tool", "<image>", "two owls"),
        say("assistant", "Owls."),
    ]
    chat = template("qwen3_vl").render(messages, tools=[TOOL], placeholders=QWEN)
    assert chat.text == released(source("qwen3_vl"), as_released(messages, ("user", "tool")), tools=[TOOL])
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "<ä> & \u2028"}}\n</tool_call>'
    assert learned(chat) == [f"{call}\n{call}<|im_end|>\n", "Owls.<|im_end|>\n"]
    assert [place.kind for place in chat.media] == ["image", "image"]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "llava", "gemma3"])
def test_tools_that_a_template_leaves_out_are_refused(name: str) -> None:
    """Else a call without words would be learned as an answer that says nothing."""
    error = refused(template(name), [*talk("What?"), say("assistant", "", tool_calls=[CALL])])
    assert error.reason == "template_tools"
    assert error.detail == (
        "message 1 (assistant): expected no tool calls, which the chat template leaves out, got some"
    )
    assert refused(template(name), talk("What?", "An owl."), tools=[TOOL]).reason == "template_tools"


def test_tool_calls_reach_a_template_that_wants_arguments_as_text() -> None:
    """One that fails on arguments as a mapping is not taken for one that leaves calls out."""
    calls = "{% for call in message.tool_calls %}{{ call.function.name + call.function.arguments }}{% endfor %}"
    call = {"function": {"name": "look", "arguments": '{"at": 1}'}}
    chat = bare(each("{{ message.content }}" + calls)).render([*talk("What?"), say("assistant", "", tool_calls=[call])])
    assert chat.text == 'What?look{"at": 1}'


def test_a_variable_is_a_switch_of_the_template() -> None:
    """Qwen's picture counter counts; no variable may stand for the conversation, or be no JSON."""
    messages = [say("user", "<image>", "<video>", "<image>", "?"), say("assistant", "Owls.")]
    jinja = source("qwen2_5_vl")
    text = ChatTemplate(jinja, {**TOKENS, "add_vision_id": True}, None).render(messages).text
    assert text == released(jinja, as_released(messages, ("user",)), add_vision_id=True)
    assert [text.count(name) for name in ("Picture 1: <|vision", "Video 1: <|vision", "Picture 2: <|vision")] == [1] * 3
    with pytest.raises(ConfigError, match="got 'messages'"):
        ChatTemplate(jinja, {"messages": []}, None)
    with pytest.raises(ConfigError, match="expected JSON values, got a value of type object"):
        ChatTemplate(jinja, {"odd": object()}, None)


def test_the_date_is_the_one_that_is_set() -> None:
    """`strftime_now` tells `today`; without it the template is refused before a sample is read."""
    jinja = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y, %H:%M') }} {% endif %}" + EVERY
    assert bare(jinja, "2025-01-31").render(talk("Hi.")).text == "31 Jan 2025, 00:00 Hi."
    with pytest.raises(ConfigError, match="writes today's date: set `today`"):
        bare(jinja)
    with pytest.raises(ConfigError, match=r"`today`: expected a date like 2025-01-31, got 'January'"):
        bare(jinja, "January")


def test_a_template_that_takes_only_text_has_no_place_for_media() -> None:
    """Several texts become one; an image is refused, with the turn, be it all turns or the answers that take text."""
    chat = template("chatml").render([say("user", "a", "b"), say("assistant", "c")])
    assert chat.text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n"
    error = refused(template("chatml"), [say("user", "a", "<image>")])
    assert error.reason == "template_media"
    assert error.detail == (
        "message 0 (user): expected only text, which is all that the chat template takes there, got image"
    )
    error = refused(template("plain_answers"), [say("user", "<image>"), say("assistant", "<image>")])
    assert error.detail.startswith("message 1 (assistant): expected only text")


@pytest.mark.parametrize("written", ["message.content", "message.content | tojson", "message.content | string | trim"])
def test_a_list_that_is_printed_is_not_taken_for_its_text(written: str) -> None:
    """Templates that print what they are given write lists as Python or JSON; they get text."""
    printing = bare(each(f"{{{{ {written} }}}}"))
    assert printing.render(talk("Hi.")).text in {"Hi.", '"Hi."'}
    assert refused(printing, [say("user", "<image>")]).reason == "template_media"


@pytest.mark.parametrize(
    ("jinja", "why"),
    [
        (
            "{{ raise_exception('no') }}",
            "as a text, the chat template refuses a trial: no; as a list, the chat template",
        ),
        ("{{ none + 1 }}", "as a text, the chat template fails on a trial at line 1: TypeError: "),
        ("nothing", "as a text, it leaves out the words; as a list, it leaves out the words"),
        (
            "{% for i in range(1, messages | length, 2) %}"
            "{{ messages[i - 1].content ~ messages[i].content }}{% endfor %}",
            "as a text, it leaves out the words",
        ),
    ],
)
def test_a_template_that_writes_no_question_is_refused_before_a_sample(jinja: str, why: str) -> None:
    """One that fails, is silent, or holds the question back until the answer comes, which then both were learned."""
    with pytest.raises(ConfigError, match="expected it to write what a user turn says") as caught:
        bare(jinja)
    assert why in str(caught.value)


def test_a_template_may_insist_on_a_system_turn() -> None:
    """It is tried with one before it is given up."""
    jinja = "{% if messages[0].role != 'system' %}{{ raise_exception('Who am I?') }}{% endif %}" + EVERY
    assert bare(jinja).render([say("system", "You."), *talk("Hi.")]).text == "You.Hi."
    assert refused(bare(jinja), talk("Hi.")).detail.endswith("refuses the conversation: Who am I?")


def test_a_conversation_of_no_turns_is_refused() -> None:
    """There is nothing to write."""
    assert refused(template("chatml"), []).reason == "record_empty"
