"""What is learned of a rendered conversation: by the template's marks, or by prefix, or refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from owl_stream.layouts.template import ChatMessage, ChatTemplate
from owl_stream.layouts.template_sandbox import Sandbox
from tests.layouts.chats import (
    EVERY,
    QWEN,
    as_released,
    bare,
    each,
    learned,
    mark,
    refused,
    released,
    released_marks,
    say,
    source,
    talk,
    template,
)
from tests.support.qwen2 import qwen2_tokenizer_path


def test_a_tokenizers_assistant_mask_is_what_the_marks_say() -> None:
    """Over the real vocabulary, `apply_chat_template` masks the very tokens that our ranges touch."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(qwen2_tokenizer_path()), eos_token="<|im_end|>")
    messages = [*talk("What is it?", "An owl.", "And now?", "It sleeps."), say("user", "Good.")]
    chat = ChatTemplate(source("llava"), tokenizer.special_tokens_map, None).render(messages)
    theirs = tokenizer.apply_chat_template(
        as_released(messages, ("user", "assistant")),
        chat_template=source("llava"),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ours = tokenizer(chat.text, return_offsets_mapping=True)
    touched = [int(any(b < end and e > begin for begin, end in chat.learned)) for b, e in ours["offset_mapping"]]
    assert ours["input_ids"] == theirs["input_ids"]
    assert touched == theirs["assistant_masks"]
    assert sum(touched) > 4


def test_turns_that_are_not_learned_are_read_and_not_learned() -> None:
    """`learned`, `train_on: last`, answers in a row, and a last question without an answer."""
    messages = [*talk("Q1", "A1", "Q2", "A2"), say("assistant", "A3", learned=False), say("user", "Q3")]
    chatml = template("chatml")
    assert learned(chatml.render(messages)) == ["A1<|im_end|>\n", "A2<|im_end|>\n"]
    assert chatml.render(messages, train_on="last").learned == ()
    assert learned(chatml.render(messages[:4], train_on="last")) == ["A2<|im_end|>\n"]
    assert chatml.render(talk("Q")).learned == ()


def test_ranges_that_touch_are_one() -> None:
    """LLaVA-NeXT writes no prompt for an answer, so answers in a row have nothing between them."""
    chat = template("llava_next").render([*talk("Q", "A"), say("assistant", "B")])
    assert learned(chat) == [" A</s>  B</s> "]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_both_texts() -> None:
    """Thoughts of earlier answers are dropped, so no prefix tells what was learned; the last answer still can be."""
    messages = [*talk("Q1", "A1", "Q2"), say("assistant", "A2", reasoning_content="Hm.")]
    error = refused(template("qwen3_5"), messages)
    assert error.reason == "template_prefix"
    assert error.detail == (
        "message 1 (assistant): expected the text of the turns up to it to begin the whole text, but from character "
        r"52 on they are '<think>\n\n</think>\n\nA1<|im_end|>\n' and "
        r"'A1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assis...': the chat template rewrites earlier "
        "turns; learn only the last one (`train_on: last`), or use a template with `{% generation %}` marks"
    )
    chat = template("qwen3_5").render(messages, train_on="last")
    assert chat.text == released(source("qwen3_5"), as_released(messages, ("user", "assistant")))
    assert learned(chat) == ["Hm.\n</think>\n\nA2<|im_end|>\n"]


def test_an_answer_to_nothing_is_refused_where_the_text_begins_otherwise_without_it() -> None:
    """Qwen2.5-VL writes its own system turn before a first turn, so it is not there before the first answer."""
    messages = [say("assistant", "Hi."), *talk("Q", "A")]
    error = refused(template("qwen2_5_vl"), messages)
    assert error.detail.startswith(
        "message 0 (assistant): expected the text of the turns before it, with the prompt for an answer, to begin"
    )
    messages[0] = say("assistant", "Hi.", learned=False)
    assert learned(template("qwen2_5_vl").render(messages)) == ["A<|im_end|>\n"]


def test_each_text_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """k answers cost 2k renderings, marks or no answer one, and finding media one more."""
    jobs: list[tuple[int, bool]] = []
    run = Sandbox.run

    def counted(self: Sandbox, variables: Any, messages: Any, what: str) -> Any:
        jobs.append((len(messages), variables["add_generation_prompt"]))
        return run(self, variables, messages, what)

    def cost(name: str, messages: list[ChatMessage], **more: Any) -> list[tuple[int, bool]]:
        template(name).render(messages)
        jobs.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Sandbox, "run", counted)
            template(name).render(messages, **more)
        return sorted(jobs)

    messages = [*talk("Q1", "A1", "Q2", "A2"), say("assistant", "A3")]
    assert cost("qwen2_5_vl", messages) == [(1, True), (2, False), (3, True), (4, False), (4, True), (5, False)]
    assert cost("qwen2_5_vl", messages, train_on="last") == [(4, True), (5, False)]
    assert cost("qwen2_5_vl", talk("Q"), placeholders=QWEN) == [(1, False)]
    assert cost("qwen2_5_vl", [say("user", "<image>")], placeholders=QWEN) == [(1, False), (1, False)]
    assert cost("marked", messages) == [(5, False)]


@pytest.mark.parametrize("tag", ["{% generation %}", "{%- generation -%}", "{%+ generation -%}"])
def test_marks_are_known_by_jinjas_grammar(tag: str) -> None:
    """However the tag is spelt; the word in a comment, a text or a name is no mark."""
    marked = bare(each("{{ message.role }}:" + tag + "{{ message.content }}{% endgeneration %}\n"))
    assert learned(marked.render(talk("Q", "A"))) == ["Q", "A"]
    unmarked = bare("{# {% generation %} #}{{ '{% generation %}' }}{% set generation = 1 %}" + EVERY)
    assert learned(unmarked.render(talk("Q", "A"))) == ["A"]


def test_a_mark_belongs_to_the_answer_that_it_was_written_for() -> None:
    """Also where one answer has two and another none."""
    twice = "{% for x in 'ab' %}" + mark("{{ x ~ message.content }}") + ".{% endfor %}"
    body = "{% if message.role == 'user' or message.content == 'none' %}{{ message.content }}{% else %}" + twice
    messages = talk("Q", "1", "Q", "none", "Q", "2", "Q", "3")
    messages[5] = say("assistant", "2", learned=False)
    chat = bare(each(body + "{% endif %}"))
    assert learned(chat.render(messages)) == ["a1", "b1", "a3", "b3"]
    assert learned(chat.render(messages, train_on="last")) == ["a3", "b3"]


def test_threads_share_a_template() -> None:
    """Each rendering keeps its own marks; transformers' compiled template can be used by one thread at a time."""
    conversations = [talk(*["Q" * at, "A" * at] * at) for at in range(1, 9)]
    alone = [template("marked").render(messages) for messages in conversations]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(template("marked").render, conversations * 20)) == alone * 20


def test_a_mark_of_no_known_answer_is_learned_only_with_all_others() -> None:
    """A template that gets at turns by number does not tell for which one it marks."""
    untold = bare("{% for i in range(messages | length) %}" + mark("{{ messages[i].content }}") + ".{% endfor %}")
    assert learned(untold.render(talk("Q", "1", "Q", "2"))) == ["Q", "1", "Q", "2"]
    error = refused(untold, talk("Q", "1", "Q", "2"), train_on="last")
    assert error.reason == "template_marks"
    assert "expected a mark for one assistant turn, got 'Q' at character 0 for none or several" in error.detail
    assert untold.render([say("user", "Q"), say("assistant", "1", learned=False)]).learned == ()


CONTENT = "{{ message.content }}"


@pytest.mark.parametrize(
    "jinja",
    [
        "{% macro one(message) %}{{ message.role }}" + mark(CONTENT) + "{% endmacro %}" + each("{{ one(message) }}"),
        each("{% filter upper %}" + mark(CONTENT) + "{% endfilter %}"),
        each("{% set text %}>" + mark(CONTENT) + "{% endset %}{{ text }}"),
        each(mark(mark(CONTENT) + "!")),
    ],
    ids=["macro", "filter", "set", "nested"],
)
def test_a_mark_that_is_not_where_its_text_is_is_refused(jinja: str) -> None:
    """transformers takes these marks at their word, and other characters are learned."""
    messages = talk("abc", "def")
    marks, text = released_marks(jinja, as_released(messages, ())), released(jinja, as_released(messages, ()))
    assert [text[begin:end] for begin, end in marks] != ["abc", "def"]
    error = refused(bare(jinja), messages)
    assert error.reason == "template_marks"
    assert "the chat template changes text that it has marked" in error.detail
