"""Settings that people write: small text files and YAML, read so that no file can hang or surprise whoever starts us.

YAML is more than settings need. A key that is given twice is refused, where PyYAML silently takes the last; aliases and
nesting are bounded; and whatever is wrong is one `ConfigError` that names the line and quotes nothing: it may be a
token.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.reader import ReaderError

from owl_stream.errors import ConfigError

MAX_FILE_BYTES = 8 << 20
"""Many thousand names of shards; a larger file is something else."""
PIPE_WITHIN_S = 10.0
"""A pipe (`--config <(...)`) whose other end writes nothing for so long is given up."""
MAX_DEPTH = 32
"""Levels of mappings and lists; settings have five."""
MAX_NODES = 1 << 18
"""Keys, values and containers, an alias counted as all that it stands for."""
MAX_DIGITS = 64
"""Of a whole number; settings fit 19."""

_SECRET = "tokens"
"""Below this key even a key's name is not repeated."""
_NEEDS_QUOTES = "; text that begins with `*`, `&` or `!` needs quotes"
_ODD_NUMBER = re.compile(r":|^[-+]?0[0-9_]")
_ODD = "a number to base 8 or 60 (`010`, `1:30`), which nobody means; write it to base 10, or text in quotes"
_TAG = re.compile(r"(?:could not determine a constructor for the|found undefined|duplicate) tag")
"""What PyYAML says before it quotes a tag, which may be a token that begins with `!`."""


def read_settings_file(path: Path, what: str, remedy: str) -> str:
    """The text of a small file, or of a pipe; `what` says in errors what it should be, `remedy` what to do.

    Raises:
        ConfigError: it cannot be read, is no file or pipe, not UTF-8, too large, or a pipe that nobody writes to.
    """
    try:
        # Without O_NONBLOCK opening a named pipe waits for its writer, for ever if there is none.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            raw = _content(descriptor, path, what)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read {what}: {exc.strerror}; {remedy}") from exc
    except ValueError as exc:  # a NUL in its name
        raise ConfigError(f"{path}: cannot read {what}: {exc}; {remedy}") from exc
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError(
            f"{path}, line {line}: expected UTF-8 text, got byte {raw[exc.start]:#04x} at {exc.start}; save it as UTF-8"
        ) from None


def _content(descriptor: int, path: Path, what: str) -> bytes:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise ConfigError(f"{path}: cannot read {what}: expected a file or a pipe, got another kind of file")
    content = bytearray()
    while piece := _piece(descriptor, path, what, begun=bool(content)):
        content += piece
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: cannot read {what}: expected at most {MAX_FILE_BYTES >> 20} MiB, got more")
    return bytes(content)


def _piece(descriptor: int, path: Path, what: str, *, begun: bool) -> bytes:
    """The next bytes; none at the end. A pipe that has no writer yet looks as if it had ended."""
    until = time.monotonic() + PIPE_WITHIN_S
    is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    while True:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise ConfigError(f"{path}: cannot read {what}: nothing was written to this pipe for {PIPE_WITHIN_S:g} s")
        if is_pipe and not select.select([descriptor], [], [], left_s)[0]:
            continue
        try:
            piece = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            continue
        if piece or begun or not is_pipe:
            return piece
        time.sleep(min(left_s, 0.01))


def read_yaml(text: str, place: str, advice: str = "", above: Sequence[str] = ()) -> Any:
    """What a YAML text says. `place` begins every error, `advice` ends it; `above`: the keys that the text is below.

    Raises:
        ConfigError: it is not YAML, or more than settings need.
    """
    try:
        loader = _StrictLoader(text, above)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as exc:
        raise ConfigError(f"{place}: not valid YAML: {_fault(exc, text)}{advice}") from None


def _fault(exc: Exception, text: str) -> str:
    """What is wrong and where, without the snippet that PyYAML quotes."""
    if isinstance(exc, ReaderError):
        line = text.count("\n", 0, exc.position) + 1
        return f"line {line}: expected text, got the character {exc.character:#06x}"
    mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = getattr(exc, "problem", None) or "unreadable"
    if _TAG.match(problem):
        return f"{where}a tag that has no meaning{_NEEDS_QUOTES}"
    begun, context = getattr(exc, "context_mark", None), getattr(exc, "context", None)
    return f"{where}{problem}" + (f", {context} that begins in line {begun.line + 1}" if begun and context else "")


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses what is ambiguous or unbounded."""

    def __init__(self, text: str, above: Sequence[str]) -> None:
        super().__init__(text)
        self._nodes = 0
        self._sizes: dict[Node, int] = {}
        self._above, self._deepest = list(above), len(above) + MAX_DEPTH

    def compose_node(self, parent: Node | None, index: Any) -> Any:
        """The next node, counted."""
        event = self.peek_event()  # type: ignore[no-untyped-call] # the stubs leave it out
        mark, anchor = event.start_mark, event.anchor
        if isinstance(event, AliasEvent):
            if anchor not in self.anchors:
                raise _refused(f"an alias of nothing{_NEEDS_QUOTES}", mark)
            meant = self.anchors[anchor]
            if meant not in self._sizes:
                raise _refused("an alias stands inside what it stands for", mark)
            self._count(self._sizes[meant], mark)
            return super().compose_node(parent, index)
        if anchor in self.anchors:
            raise _refused(f"an anchor is given twice{_NEEDS_QUOTES}", mark)
        if len(self._above) >= self._deepest:
            raise _refused(f"nested more than {MAX_DEPTH} levels deep", mark)
        before = self._nodes
        self._count(1, mark)
        self._above.append(index.value if isinstance(index, ScalarNode) else "")
        node: Any = super().compose_node(parent, index)
        self._above.pop()
        self._sizes[node] = self._nodes - before
        return node

    def _count(self, nodes: int, mark: yaml.Mark) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _refused(f"more than {MAX_NODES} values, what aliases stand for included", mark)

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """A mapping whose keys are all different, before any merge adds to them."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise _refused("expected text as a key, got a list or a mapping", key.start_mark)
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                what = "a key" if _SECRET in self._above else f"`{key.value:.100}`"
                raise _refused(f"{what} is given twice, first in line {lines[name]}; leave one out", key.start_mark)
            lines[name] = line
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """A value; what PyYAML's constructors raise beside its own errors names the line too."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            raise _refused(f"unreadable as {_tag(node)}", node.start_mark) from None

    def construct_yaml_int(self, node: ScalarNode) -> int:
        """A whole number of a sensible length."""
        if len(self.construct_scalar(node)) > MAX_DIGITS:
            raise _refused(f"a whole number of more than {MAX_DIGITS} digits", node.start_mark)
        if _ODD_NUMBER.search(self.construct_scalar(node)):
            raise _refused(_ODD, node.start_mark)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: ScalarNode) -> float:
        """A number; PyYAML reads `1:30` as 90."""
        if ":" in self.construct_scalar(node):
            raise _refused(_ODD, node.start_mark)
        return super().construct_yaml_float(node)

    def construct_yaml_null(self, node: ScalarNode) -> None:
        """Nothing; PyYAML's own takes any text after `!!null` for it."""
        if self.construct_scalar(node) not in ("", "~", "null", "Null", "NULL"):
            raise _refused("unreadable as null", node.start_mark)

    def construct_yaml_binary(self, node: ScalarNode) -> bytes:
        """Bytes; PyYAML's own error quotes what cannot be read."""
        try:
            return super().construct_yaml_binary(node)
        except ConstructorError:
            raise _refused(f"unreadable as {_tag(node)}", node.start_mark) from None


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_yaml_float)
_StrictLoader.add_constructor("tag:yaml.org,2002:null", _StrictLoader.construct_yaml_null)
_StrictLoader.add_constructor("tag:yaml.org,2002:binary", _StrictLoader.construct_yaml_binary)


def _tag(node: Node) -> str:
    return str(node.tag).rpartition(":")[2]


def _refused(problem: str, mark: yaml.Mark) -> ConstructorError:
    return ConstructorError(None, None, problem, mark)
