"""One chat template's Jinja, compiled once and run in a sandbox that is the same wherever a template is rendered.

The settings, filters and globals are those of `transformers.utils.chat_template_utils` (5.23): a template may use what
the model's own tokenizer gives it. Two things of Jinja are left out, because they give unequal text for equal input:
the filter `random` and the global `lipsum`. `strftime_now` tells one fixed date for the same reason.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, NamedTuple, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.utils import Namespace

from owl_stream.errors import ConfigError, OwlStreamError, SampleError
from owl_stream.layouts.template_limits import MAX_CHARACTERS, STEPS, LimitedEnvironment, Steps, limited

_MAX_WORDS = 500
"""How many characters of what a template or Jinja says go into an error."""

_RENDERING = "the rendering"
"""The variable under which a template's context carries its `Rendering`; with a space no template can spell it."""

_FILE = "<template>"
"""What Jinja calls a template that came from no file."""


class Mark(NamedTuple):
    """What one `{% generation %}` block wrote, and from which character on.

    `message`: the position of the assistant turn that the block was run for, None where the template does not tell.
    """

    begin: int
    text: str
    message: int | None


@dataclass
class Rendering:
    """One run of a template: the text so far in pieces, and its marks. `turns`: assistant turns by identity."""

    turns: Mapping[int, int] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    characters: int = 0

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self.pieces)

    def write(self, pieces: Iterable[str]) -> None:
        """Append what a template yields while it yields it, so that marks know where they are.

        Raises:
            SampleError: `template_failed`, the text is longer than `MAX_CHARACTERS`.
        """
        for piece in pieces:
            self.characters += len(piece)
            if self.characters > MAX_CHARACTERS:
                detail = f"expected a conversation, got more than {MAX_CHARACTERS:,} characters from the chat template"
                raise SampleError("template_failed", detail)
            self.pieces.append(piece)

    def mark(self, text: str, context: Context) -> None:
        """Note a block. Its turn is the assistant turn that one of the template's variables is at this place."""
        seen = {id(value) for value in context.parent.values()} & self.turns.keys()
        self.marks.append(Mark(self.characters, text, self.turns[seen.pop()] if len(seen) == 1 else None))


class Sandbox:
    """A compiled template.

    `today`: the date that `strftime_now` tells, at midnight. None refuses a template that asks for it.
    """

    def __init__(self, source: str, today: date | None) -> None:
        environment = _environment(today)
        try:
            tree = limited(environment.parse(source), environment)
            self._template = environment.from_string(tree)
        except TemplateSyntaxError as exc:
            raise ConfigError(f"chat template, line {exc.lineno}: {_shortened(exc)}; expected Jinja") from exc
        except Exception as exc:
            raise ConfigError(f"chat template: {type(exc).__name__}: {_shortened(exc)}; expected Jinja") from exc
        calls = [block.call.node for block in tree.find_all(nodes.CallBlock)]
        self.marked = any(isinstance(call, nodes.ExtensionAttribute) for call in calls)
        """Whether the template has `{% generation %}` blocks."""

    def run(self, variables: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], what: str) -> Rendering:
        """Render `messages`; `what` names them in errors.

        Raises:
            SampleError: `template_refused`, with what the template says in `raise_exception`. `template_failed`, it
                cannot be run on this conversation.
            ConfigError: it asks for the date, and none is set.
        """
        turns = {id(turn): at for at, turn in enumerate(messages) if turn["role"] == "assistant"}
        rendering = Rendering(turns)
        hidden = {_RENDERING: rendering, STEPS: Steps()}
        try:
            rendering.write(self._template.generate(variables, messages=messages, **hidden))
        except _RefusalError as exc:
            detail = f"the chat template refuses {what}: {_shortened(exc)}"
            raise SampleError("template_refused", detail) from exc
        except OwlStreamError:
            raise
        except Exception as exc:
            detail = f"the chat template fails on {what}{_line(exc)}: {type(exc).__name__}: {_shortened(exc)}"
            raise SampleError("template_failed", detail) from exc
        return rendering


class _GenerationBlocks(Extension):
    """`{% generation %}...{% endgeneration %}` writes what is in it and marks it as the model's own."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Read a block; the call gets the variables around it, from which `Rendering.mark` knows the turn."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_run", [nodes.DerivedContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _run(self, context: Context, caller: Callable[[], str]) -> str:
        text = caller()
        rendering: Rendering = context.parent[_RENDERING]
        rendering.mark(text, context)
        return text


class _RefusalError(TemplateError):
    """What a template says in `raise_exception`."""


class _Dict:
    """The global `dict` without the type's methods, by which a template could change what it is given."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """The global `namespace`, which takes no name that Python gives a meaning to."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        names = dict(*given, **kwargs)
        for name in names:
            _check_name(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, got {name!r}")


def _environment(today: date | None) -> LimitedEnvironment:
    extensions = [_GenerationBlocks, LoopControlExtension]
    environment = LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    del environment.filters["random"], environment.globals["lipsum"]
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        {"raise_exception": _refuse, "strftime_now": _clock(today), "dict": _Dict(), "namespace": _Namespace}
    )
    return environment


def _refuse(words: object) -> NoReturn:
    raise _RefusalError(str(words))


def _clock(today: date | None) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if today is None:
            raise ConfigError("the chat template writes today's date: set `today` (2025-01-31) to fix it")
        return datetime.combine(today, time()).strftime(form)

    return strftime_now


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter escapes what HTML would read."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _line(error: Exception) -> str:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == _FILE]
    return f" at line {lines[-1]}" if lines else ""


def _shortened(error: Exception) -> str:
    words = str(error)
    return words if len(words) <= _MAX_WORDS else f"{words[:_MAX_WORDS]}..."
