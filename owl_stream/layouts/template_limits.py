"""What keeps a chat template from running for hours or filling the memory: loops are counted, texts are measured.

Jinja's sandbox keeps a template from Python. It does not keep it from a loop in a loop, or from a text that doubles.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 64 << 20
"""Of a text: no model reads a conversation that long, so the template is caught in a loop."""

MAX_STEPS = 500_000
"""Turns of all loops of one rendering, which take a second or two. A conversation of a thousand turns has thousands."""

_MAX_BITS = 1 << 16
"""Of a whole number that is multiplied."""

STEPS = "the steps"
"""The variable under which a template's context carries its `Steps`; with a space no template can spell it."""


class Steps:
    """How many turns the loops of one rendering have taken."""

    def __init__(self) -> None:
        self.taken = 0


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Templates that were made of a tree that `limited` has changed."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operator's value, unless it would be huge."""
        sizes = _size(left), _size(right)
        if operator == "+":
            _check(sum(sizes), MAX_CHARACTERS, "characters or items")
        elif operator == "*" and not (isinstance(left, int) and isinstance(right, int)):
            for times, size in ((left, sizes[1]), (right, sizes[0])):
                _check(size * times if isinstance(times, int) else 0, MAX_CHARACTERS, "characters or items")
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            _check(bits, _MAX_BITS, "bits of a number")
        return super().call_binop(context, operator, left, right)

    def joined(self, *pieces: object) -> str:
        """What `~` makes of texts."""
        texts = [str(piece) for piece in pieces]
        _check(sum(map(len, texts)), MAX_CHARACTERS, "characters")
        return "".join(texts)

    def step(self, context: Context) -> None:
        """Count one turn of a loop."""
        steps: Steps = context.parent[STEPS]
        steps.taken += 1
        _check(steps.taken, MAX_STEPS, "turns of loops")


def limited(tree: nodes.Template, environment: LimitedEnvironment) -> nodes.Template:
    """The same template, with each turn of a loop counted and each joined text measured."""
    for loop in tree.find_all(nodes.For):
        loop.body.insert(0, nodes.ExprStmt(_call("step", nodes.ContextReference()), lineno=loop.lineno))
    for node in list(tree.find_all(nodes.Node)):
        for name, value in list(node.iter_fields()):
            if isinstance(value, nodes.Concat):
                setattr(node, name, _call("joined", *value.nodes))
            elif isinstance(value, list):
                value[:] = [_call("joined", *each.nodes) if isinstance(each, nodes.Concat) else each for each in value]
    tree.set_environment(environment)
    return tree


def _call(name: str, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _check(got: int, most: int, what: str) -> None:
    if got > most:
        raise SecurityError(f"expected at most {most:,} {what}, got more: the template is caught in a loop")
