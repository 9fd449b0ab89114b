"""Tools, calls, results and thoughts in batches: what transformers writes of them, or a refusal that names them.

Fault 94 of docs/faults.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from owl_stream.assemble import load_tokenizer, open_dataset
from owl_stream.config import DatasetConfig
from owl_stream.errors import SampleError
from owl_stream.layouts import Chat, EncodedRow, Image, LengthLimit, Recipe, Tokenizer, settle_recipe
from owl_stream.layouts.template_sandbox import Sandbox
from tests.layouts.characters import Characters, recipe
from tests.layouts.chats import source
from tests.records.both import in_shard
from tests.support.assembly import make_dataset, run_job
from tests.support.families import Family, make_family

SIDE = 8
"""Of the pictures that `in_shard` puts beside a record."""

LIMIT = LengthLimit(1 << 20, "skip")


@dataclass(frozen=True)
class Model:
    """A model whose directory has a chat template that knows tools."""

    family: Family
    recipe: Recipe
    tokenizer: Tokenizer

    def encode(self, record: dict[str, Any]) -> EncodedRow:
        """The row of a record, as indexing and workers make it."""
        count = json.dumps(record).count('"type": "image"')
        read = in_shard(record, count)
        sizes = [Image(SIDE, SIDE)] * count
        return self.recipe.make_layout().encode(Chat(read.messages, read.tools), sizes, self.tokenizer, LIMIT)


def make_model(name: str, template: str, directory: Path, **config: Any) -> Model:
    """A family with that chat template in place of its own."""
    family = replace(make_family(name, directory / "model"), template=template)
    (directory / "model" / "chat_template.jinja").write_text(template)
    made = settle_recipe(DatasetConfig(shards=("a.tar",), model="model", **config), directory)
    return Model(family, made, load_tokenizer("model", directory, made.make_layout().tokens).build())


KINDS = {"calls": ("qwen3_vl", "qwen3_vl"), "thinks": ("qwen3_5", "qwen3_5"), "tiles": ("internvl", "qwen3_vl")}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Templates that write calls as JSON, and one that writes parameters one by one, and thoughts."""
    family, template = KINDS[request.param]
    jinja = source(template)
    if family == "internvl":
        jinja = jinja.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>")
    return make_model(family, jinja, tmp_path_factory.mktemp(request.param))


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="<>"), max_size=12)
SAID = WORDS.map(lambda text: f"A{text}.")
NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
NUMBERS = st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=3)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """A call, its arguments as an object or as a text of JSON."""
    arguments: Any = draw(OBJECTS)
    if draw(st.booleans()):
        arguments = json.dumps(arguments, ensure_ascii=draw(st.booleans()))
    return {"type": "function", "function": {"name": draw(NAMES), "arguments": arguments}}


@st.composite
def contents(draw: st.DrawFn) -> Any:
    """What a user or a tool says: a text, or a text and a picture."""
    if draw(st.booleans()):
        return draw(SAID)
    parts = [{"type": "text", "text": draw(SAID)}, {"type": "image"}]
    return parts if draw(st.booleans()) else parts[::-1]


@st.composite
def records(draw: st.DrawFn, *, thinks: bool) -> dict[str, Any]:
    """Questions, rounds of calls and results, and answers. Who thinks is asked once: earlier thoughts are dropped."""
    messages = [{"role": "system", "content": draw(SAID)}] if draw(st.booleans()) else []
    for _ in range(1 if thinks else draw(st.integers(1, 2))):
        messages.append({"role": "user", "content": draw(contents())})
        for _ in range(draw(st.integers(0, 2))):
            made = draw(st.lists(calls(), min_size=1, max_size=3))
            content = draw(st.none() | st.just("") | SAID)
            messages.append({"role": "assistant", "content": content, "tool_calls": made})
            messages += [{"role": "tool", "content": draw(contents())} for _ in made]
        messages.append({"role": "assistant", "content": draw(SAID)})
    for message in messages:
        if thinks and message["role"] == "assistant":
            message["reasoning_content"] = draw(SAID)
    schema = st.fixed_dictionaries({"name": NAMES, "description": WORDS, "parameters": OBJECTS})
    tools = [{"type": "function", "function": draw(schema)} for _ in range(draw(st.integers(0, 2)))]
    return {"messages": messages, "tools": tools}


def released(record: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Messages and tools as transformers is to be given them: null is an empty text, arguments are objects."""
    messages = []
    for message in json.loads(json.dumps(record["messages"])):
        for call in message.get("tool_calls", ()):
            given = call["function"]["arguments"]
            call["function"]["arguments"] = json.loads(given) if isinstance(given, str) else given
        messages.append({**message, "content": message["content"] or ""})
    return messages, json.loads(json.dumps(record["tools"])) or None


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_conversation_with_tools_is_what_transformers_makes_of_it(model: Model, data: st.DataObject) -> None:
    """Ids are those of `apply_chat_template` and the processor; labels those of its prefixes, with the same tools."""
    record = data.draw(records(thinks=model.family.name == "qwen3_5"))
    row = model.encode(record)
    messages, tools = released(record)
    pictures = [Pillow.new("RGB", (SIDE, SIDE))] * len(row.visuals)
    expected = model.family.batch([messages], pictures, tools)
    assert row.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert row.labels.tolist() == model.family.labels(messages, pictures, tools)


QUESTION = {"role": "user", "content": "What?"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
CALL = {"type": "function", "id": "c1", "function": {"name": "look", "arguments": {"at": "it"}}}


def chat(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A record of a question, these turns, and an answer that comes last."""
    return {"messages": [QUESTION, *turns, {"role": "assistant", "content": "A."}], **more}


def calling(*given: object, content: str = "", **more: Any) -> dict[str, Any]:
    """An assistant's turn that calls."""
    return {"role": "assistant", "content": content, "tool_calls": list(given or (CALL,)), **more}


RESULT = {"role": "tool", "content": "an owl", "tool_call_id": "c1", "name": "look"}


def test_what_is_learned_is_what_the_assistant_writes(tmp_path: Path) -> None:
    """Calls and answers; `loss: false` and `train_on: last` as ever; never tools or results."""
    qwen = make_model("qwen3_vl", source("qwen3_vl"), tmp_path)
    decode = qwen.family.tokenizer.decode
    record = chat(calling(content="I look."), RESULT, RESULT, tools=[TOOL])

    def learned(of: Model, record: dict[str, Any]) -> list[str]:
        row = of.encode(record)
        return [decode(row.input_ids[begin:end]) for begin, end in row.supervised]

    call = 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call><|im_end|>\n'
    assert learned(qwen, record) == [call, "A.<|im_end|>\n"]
    record["messages"][1]["loss"] = False
    assert learned(qwen, record) == ["A.<|im_end|>\n"]
    last = make_model("qwen3_vl", source("qwen3_vl"), tmp_path / "last", train_on="last")
    assert learned(last, chat(calling(), RESULT, tools=[TOOL])) == ["A.<|im_end|>\n"]
    only_call = {"messages": chat(calling())["messages"][:-1]}
    assert learned(last, only_call) == [call.removeprefix("I look.\n")]


def test_marks_tell_what_is_learned_of_calls(tmp_path: Path) -> None:
    """With `{% generation %}` around words and calls."""
    words, end = "' ~ only_text(message.content) }}", "{{ '<|im_end|>\\n' }}\n    {%- elif message.role == 'tool' -%}"
    jinja = source("qwen3_vl").replace(words, "' }}{%- generation -%}{{ only_text(message.content) }}")
    jinja = jinja.replace(end, "{%- endgeneration -%}" + end)
    assert jinja.count("generation -%}") == 2
    qwen = make_model("qwen3_vl", jinja, tmp_path)
    row = qwen.encode(chat(calling(content="I look."), RESULT, tools=[TOOL]))
    said = [qwen.family.tokenizer.decode(row.input_ids[begin:end]) for begin, end in row.supervised]
    assert said == ['I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>', "A."]


def refusal(model: Model, record: dict[str, Any]) -> SampleError:
    """Why a record is refused."""
    with pytest.raises(SampleError) as caught:
        model.encode(record)
    return caught.value


PLAIN = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content"
END = " ~ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
ALL = " ~ (m.tool_calls or '')"


@pytest.mark.parametrize(
    ("jinja", "record", "reason", "said"),
    [
        (PLAIN + END, chat(tools=[TOOL]), "template_tools", "expected no tools, which the chat template leaves out"),
        (PLAIN + END, chat(calling(), RESULT), "template_tools", "message 1 (assistant): expected no tool calls"),
        (
            PLAIN + " ~ (m.tool_calls or ['']) | first" + END,
            chat(calling(CALL, CALL), RESULT),
            "template_tools",
            "message 1 (assistant): expected no tool calls, which the chat template leaves out",
        ),
        (
            PLAIN + " ~ (m.tool_calls or []) | map(attribute='function.name') | join" + END,
            chat(calling({"function": {"name": "look"}}, CALL), RESULT),
            "template_tools",
            "message 1 (assistant): expected no arguments of tool calls",
        ),
        (
            PLAIN.replace("m.content", "(m.tool_calls or m.content)") + END,
            chat(calling(content="I look."), RESULT),
            "template_tools",
            "message 1 (assistant): expected no text beside tools or calls",
        ),
        (
            PLAIN.replace("m.content", "(m.content if m.role != 'tool' else 'see')") + ALL + END,
            chat(calling(), RESULT),
            "template_tools",
            "message 2 (tool): expected no result of a tool",
        ),
        (
            PLAIN.replace("messages", "messages if m.role != 'tool'") + ALL + END,
            chat(calling(), {**RESULT, "content": ""}),
            "template_tools",
            "message 2 (tool): expected no result of a tool",
        ),
        (
            "{{ tools or '' }}"
            + PLAIN.replace("m.content", "(m.content if m.role != 'system' or not tools else '')")
            + END,
            {"messages": [{"role": "system", "content": "Be kind."}, *chat()["messages"]], "tools": [TOOL]},
            "template_tools",
            "message 0 (system): expected no text beside tools or calls",
        ),
        (
            PLAIN + END,
            chat(
                {"role": "assistant", "content": "A", "reasoning_content": "Hm.", "loss": False},
                {"role": "user", "content": "?"},
            ),
            "template_thinking",
            "message 1 (assistant): expected no thoughts (`reasoning_content`), which the chat template leaves out",
        ),
        (
            PLAIN + " ~ (m.reasoning_content if not m.tool_calls)" + ALL + END,
            chat(calling(reasoning_content="Hm."), RESULT),
            "template_thinking",
            "message 1 (assistant): expected no thoughts",
        ),
        (
            "{% if messages[2:] %}{{ raise_exception('Only one answer!') }}{% endif %}" + PLAIN + ALL + END,
            chat(calling(), RESULT),
            "template_refused",
            "the chat template refuses the conversation: Only one answer!",
        ),
        (
            PLAIN + " ~ (m.tool_calls[0].function.arguments.x.y if m.tool_calls)" + END,
            chat(calling(), RESULT),
            "template_failed",
            "UndefinedError",
        ),
        (
            "{{ tools if messages[1:] else '' }}" + PLAIN + END,
            chat(tools=[TOOL]),
            "template_prefix",
            "message 1 (assistant): expected the text of the turns before it",
        ),
        (
            "{{ tools }}" + PLAIN + END,
            chat(tools=[{"name": "<|image_pad|>"}], literal_markers=True),
            "template_placeholder",
            "spells out '<|image_pad|>'",
        ),
        (
            PLAIN + ALL + END,
            chat(calling(), {**RESULT, "content": "<|image_pad|>"}, literal_markers=True),
            "template_placeholder",
            "message 2 (tool): its text spells out '<|image_pad|>'",
        ),
        (
            PLAIN + " ~ m.reasoning_content" + END,
            {
                "messages": [QUESTION, {"role": "assistant", "content": "A", "reasoning_content": "<|video_pad|>"}],
                "literal_markers": True,
            },
            "template_placeholder",
            "spells out '<|video_pad|>'",
        ),
        (
            source("qwen3_vl").replace(
                "~ media_and_text(message.content) ~ '\\n</tool", "~ only_text(message.content) ~ '\\n</tool"
            ),
            chat(calling(), {"role": "tool", "content": [{"type": "text", "text": "an owl"}, {"type": "image"}]}),
            "template_media",
            "expected a placeholder for each image (1), the chat template wrote 0",
        ),
    ],
)
def test_what_a_template_leaves_out_or_refuses_is_refused_by_name(
    jinja: str, record: dict[str, Any], reason: str, said: str, tmp_path: Path
) -> None:
    """Never a row that lacks what its record says."""
    error = refusal(make_model("qwen3_vl", jinja, tmp_path), record)
    assert error.reason == reason
    assert said in error.detail


def test_a_template_that_knows_functions_by_name_is_no_worse(tmp_path: Path) -> None:
    """Where the trial with other names fails, each call is looked for by what the text is without it."""
    known = "{% for m in messages %}{% for c in m.tool_calls or [] if c.function.name != 'look' %}"
    jinja = known + "{{ raise_exception('unknown') }}{% endfor %}{% endfor %}" + PLAIN
    assert make_model("qwen3_vl", jinja + ALL + END, tmp_path).encode(chat(calling(), RESULT)).supervised
    error = refusal(make_model("qwen3_vl", jinja + END, tmp_path / "2"), chat(calling(), RESULT))
    assert error.reason == "template_tools"


def test_thoughts_may_be_written_of_calls_only(tmp_path: Path) -> None:
    """A template is tried with both."""
    model = make_model("qwen3_vl", PLAIN + " ~ (m.reasoning_content if m.tool_calls)" + ALL + END, tmp_path)
    assert model.encode(chat(calling(reasoning_content="Hm."), RESULT)).supervised
    answer = {"messages": [QUESTION, {"role": "assistant", "content": "A.", "reasoning_content": "Hm."}]}
    assert refusal(model, answer).reason == "template_thinking"


def test_thoughts_of_earlier_questions_are_the_templates_matter(tmp_path: Path) -> None:
    """Qwen3.5 drops them: with `train_on: last` as it does when it is asked; to learn them is refused."""
    thinking = {"role": "assistant", "content": "A.", "reasoning_content": "Hm."}
    record = {"messages": [QUESTION, thinking, {"role": "user", "content": "And?"}, thinking]}
    error = refusal(make_model("qwen3_5", source("qwen3_5"), tmp_path), record)
    assert error.reason == "template_thinking"
    assert error.detail.startswith("message 1 (assistant): expected no thoughts (`reasoning_content`)")
    last = make_model("qwen3_5", source("qwen3_5"), tmp_path / "last", train_on="last")
    row = last.encode(record)
    assert row.input_ids.tolist() == last.family.batch([record["messages"]], [])["input_ids"][0].tolist()


@pytest.mark.parametrize("layout", ["owl3-240728", "owl3-241101"])
@pytest.mark.parametrize("form", ["release", "swift"])
@pytest.mark.parametrize(
    ("record", "reason", "said"),
    [
        (chat(tools=[TOOL]), "tools_unsupported", "expected no `tools`, got 1: this layout has no chat template"),
        (chat(calling(), RESULT), "tools_unsupported", "message 1 (assistant): expected no `tool_calls`"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "Hm."}]},
            "thinking_unsupported",
            "message 1 (assistant): expected no `reasoning_content`",
        ),
    ],
)
def test_a_layout_without_a_chat_template_refuses_them(
    record: dict[str, Any], reason: str, said: str, layout: str, form: str
) -> None:
    """mPLUG-Owl3's text has no place for them; it is the layout that says so."""
    read = in_shard(record)
    made = recipe(layout=layout, chat=form)
    with pytest.raises(SampleError) as caught:
        made.make_layout().encode(Chat(read.messages, read.tools), [], Characters(), made.limit)
    assert caught.value.reason == reason
    assert said in caught.value.detail


def test_many_calls_cost_two_renderings_more_than_plain_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without tools, one with words in place of all that may be left out; however many calls there are."""
    qwen = make_model("qwen3_vl", source("qwen3_vl"), tmp_path)
    run, jobs = Sandbox.run, []

    def counted(self: Sandbox, *given: Any) -> Any:
        jobs.append(1)
        return run(self, *given)

    plain = chat(*[{"role": who, "content": "x"} for who in ("assistant", "user")] * 5)
    calls = chat(*[turn for _ in range(5) for turn in (calling(content="I look."), RESULT)], tools=[TOOL])
    costs = []
    for record in (plain, calls):
        layout, read = qwen.recipe.make_layout(), in_shard(record)
        for _ in range(2):  # the first also compiles and tries the template
            jobs.clear()
            with monkeypatch.context() as patch:
                patch.setattr(Sandbox, "run", counted)
                layout.encode(Chat(read.messages, read.tools), [], qwen.tokenizer, LIMIT)
        costs.append(len(jobs))
    assert costs == [12, 14]


def test_a_shard_with_tools_is_served_to_who_has_a_place_for_them(tmp_path: Path) -> None:
    """The same shard: every sample in the batches of Qwen3-VL; of mPLUG-Owl3 only the plain one, the others by name."""
    records = [chat(), chat(calling(), RESULT, tools=[TOOL]), chat(calling(CALL, CALL), RESULT, RESULT)]
    shard = [(f"{at}", {"json": json.dumps(record).encode()}) for at, record in enumerate(records)]
    owl3 = make_dataset(tmp_path, shard)
    assert owl3.samples == 1
    assert [(bad["key"], bad["reason"]) for bad in owl3.quarantine()] == [(key, "tools_unsupported") for key in "12"]
    qwen = make_model("qwen3_vl", source("qwen3_vl"), tmp_path)
    config = DatasetConfig(shards=("s-*.tar",), model="model", global_batch_size=4, shuffle="none")
    dataset = open_dataset("train", config, tmp_path, tmp_path / "index", processes=0)
    made = run_job(dataset, dataset.job(0, 0, 0, 0, 1, 4))
    assert sorted(row.key for row in made.rows if row.status == "ok") == ["0", "1", "2"]
    for at, row in enumerate(made.rows):
        if row.status == "ok":
            expected = qwen.encode(records[int(row.key)])
            length = len(expected.input_ids)
            assert made.tensors["input_ids"][at, :length].tolist() == expected.input_ids.tolist()
            assert made.tensors["labels"][at, :length].tolist() == expected.labels.tolist()
    owl3.close()
    dataset.close()
