"""What a chat template may do is what transformers lets it do; the rest is an error that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from owl_stream.errors import ConfigError
from owl_stream.layouts.template import ChatTemplate
from tests.layouts.chats import EVERY, TOKENS, TOOL, bare, refused, released, say, talk, template


@pytest.mark.parametrize(
    "snippet",
    [
        "{{ tools | tojson }}",
        "{{ tools | tojson(indent=2) }}{{ tools | tojson(ensure_ascii=true, sort_keys=true) }}",
        "{{ tools | tojson(separators=(',', ':')) }}",
        "{% for i in range(9) %}\n {% if i == 2 %}{% continue %}{% endif %}\n{{ i }}"
        "{% if i == 4 %}{% break %}{% endif %}\n{% endfor %}\n",
        "{% set a = dict(x=1) %}{{ a }}{{ dict.fromkeys('ab', 2) }}{{ dict([('y', 1)]) | items | list }}",
        "{% set n = namespace(self=1, k=2) %}{% set n.k = n.k + n.self %}{{ n.k }}{{ namespace({'z': 3}).z }}",
        "{{ eos_token }}{{ unknown }}{{ documents }}{{ add_generation_prompt }}{{ messages | length }}",
        "{% set j = joiner('|') %}{{ j() }}a{{ j() }}b{{ '%s!' | format('x') }}{{ '{}'.format(messages[0].role) }}",
        "{{ messages[0].thinking }}{{ messages[0].reasoning_content }}{{ messages[0].name is defined }}\r\n",
        "{{ 2 + 3 * 4 ** 2 }}{{ 'a' ~ 1 ~ none ~ unknown }}{{ '-' * 3 + 'b' }}{{ [1] + [2] * 2 }}",
        "{{ ('x' ~ 'y')[0] ~ 'z' }}{{ ('a' ~ 'b') | upper }}{{ [1 ~ 2] }}{{ {'k': 'a' ~ 'b'} }}",
        "{% for k, v in {'a': 1}.items() if v %}{{ loop.index ~ k }}{% else %}none{% endfor %}"
        "{% for x in [1, [2, [3]]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}",
        "{#- c -#}  \n   {%- if tools %}\n   t\n   {% endif %}\n",
    ],
)
def test_a_template_may_use_what_transformers_gives_it(snippet: str) -> None:
    """Filters, globals, tags and white space work as there; reasoning has its names, None is no value."""
    jinja = snippet + EVERY + "{{ tools | tojson }}"
    message = say("user", "Hi.", reasoning="Hm.", name=None)
    chat = ChatTemplate(jinja, TOKENS, None).render([message], tools=[TOOL])
    assert chat.text == released(jinja, [{"role": "user", "content": "Hi.", "reasoning": "Hm."}], tools=[TOOL])


@pytest.mark.parametrize(
    ("snippet", "said"),
    [
        ("\n{{ messages[7].role.upper() }}", "fails on the conversation at line 2: UndefinedError: "),
        ("{{ 'a' + 1 }}", "TypeError: "),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError: "),
        ("{{ messages.append(1) }}", "SecurityError: "),
        ("{{ dict.update(messages[0], {'role': 'x'}) }}", "UndefinedError: "),
        ("{{ namespace(__class__=1) }}", "SecurityError: "),
        ("{% set n = namespace() %}{% set n._x = 1 %}", "SecurityError: "),
        ("{{ '{0.__class__.__mro__}'.format(1) }}", "SecurityError: "),
        ("{{ raise_exception.__globals__.items() }}", "SecurityError: "),
        ("{% include '/etc/hostname' %}", "TypeError: no loader"),
        ("{{ range(100001) | list }}", "OverflowError: Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError: "),
        ("{% for i in range(99999) %}{{ '%0999d' | format(i) }}{% endfor %}", "got more than 67,108,864 characters"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "expected at most 500,000 turns of loops, got more",
        ),
        ("{{ 'a' * 3000000000 }}", "expected at most 67,108,864 characters or items, got more"),
        ("{{ 3000000000 * [1] }}", "expected at most 67,108,864 characters or items, got more"),
        ("{{ 9 ** 999999999 }}", "expected at most 65,536 bits of a number, got more"),
        (
            "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "expected at most 67,108,864 characters, got more",
        ),
        (
            "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
            "expected at most 67,108,864 characters or items, got more",
        ),
        ("{{ lipsum() }}", "UndefinedError: 'lipsum' is undefined"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
    ],
)
def test_what_a_template_does_wrong_is_an_error_of_the_sample(snippet: str, said: str) -> None:
    """Errors of Python, what the sandbox stops, what would not end, and what chance would decide."""
    error = refused(bare("{% if messages[0].content == 'now' %}" + snippet + "{% endif %}" + EVERY), talk("now"))
    assert error.reason == "template_failed"
    assert said in error.detail


def test_a_template_refuses_in_its_own_words() -> None:
    """`raise_exception`'s, and not all of a long speech."""
    jinja = "{% if messages | length > 1 %}{{ raise_exception(messages[0].content) }}{% endif %}" + EVERY
    error = refused(bare(jinja), talk("not like <this>", "A"))
    assert error.reason == "template_refused"
    assert error.detail == "the chat template refuses the conversation: not like <this>"
    assert len(refused(bare(jinja), talk("no " * 999, "A")).detail) < 600


@pytest.mark.parametrize(
    ("jinja", "said"),
    [
        ("a\n{% for m in messages %}\n{{ m.content }", "chat template, line 3: "),
        ("{% endgeneration %}", "chat template, line 1: "),
        ("\n{% generation %}{{ 1 }}", "chat template, line 2: "),
        ("{{ [1, 2] | random }}", "chat template, line 1: No filter named 'random'"),
        ("{{ " + "(" * 9999, "chat template: RecursionError: "),
        ("{% for i in 'a' %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
    ],
    ids=["cut", "end", "open", "random", "deep", "blocks"],
)
def test_a_template_that_is_no_jinja_is_refused_with_its_line(jinja: str, said: str) -> None:
    """Before any sample is read, as an error of the configuration."""
    with pytest.raises(ConfigError) as caught:
        bare(jinja)
    assert said in str(caught.value)


def test_a_template_meets_no_object_of_ours() -> None:
    """Only JSON's own types go in; anything else, and what nests too deep, is named with its turn."""
    nested: list[object] = []
    for _ in range(9999):
        nested = [nested]
    for odd, said in [(Path("/"), "a value of type PosixPath"), (nested, "maximum recursion depth")]:
        error = refused(template("chatml"), [*talk("a"), say("assistant", "b", odd=odd)])
        assert error.reason == "template_extra"
        assert error.detail.startswith("message 1 (assistant): expected JSON values, got ")
        assert said in error.detail
    assert (
        bare("{{ messages[0].t }}" + EVERY).render([say("user", "!", t=(1, {"a": None}))]).text == "[1, {'a': None}]!"
    )
