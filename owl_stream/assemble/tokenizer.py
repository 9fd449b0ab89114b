"""The tokenizer as content: read once, shipped to workers as bytes, named by a digest rather than by a path."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

import xxhash
from tokenizers import Tokenizer as _Backend

from owl_stream.assemble.words import WordTokenizer
from owl_stream.errors import ConfigError, SampleError
from owl_stream.layouts import SpecialTokens, Tokens, released_models
from owl_stream.shards.sniff import sniff

# `encode_batch_fast` would start a pool of threads in every worker, of which there is one per core already.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILE = "tokenizer.json"
_CACHED_TEXTS, _CACHED_CHARACTERS = 4096, 64


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer's JSON. Picklable; two of the same content have the same digest, wherever they came from.

    `name` is what the configuration calls it. `digest`: xxh3-128 of the content, 32 hex digits. `tokens`: what a layout
    demands of it; None where it only turns ids back into text.
    """

    name: str
    content: bytes = field(repr=False)
    digest: str
    tokens: SpecialTokens | None = field(repr=False)

    def build(self) -> ChatTokenizer:
        """The tokenizer for its layout's texts.

        Raises:
            ConfigError: the content is no tokenizer, or lacks a special token.
        """
        assert self.tokens is not None, "texts are tokenised for a layout"
        return ChatTokenizer(self.name, self.parse(), self.tokens)

    def parse(self) -> _Backend:
        """Parse the content (half a second for 150,000 tokens).

        Raises:
            ConfigError: the content is no tokenizer.
        """
        if sniff(self.content) == "git-lfs":
            raise ConfigError(
                f"tokenizer {self.name}: a Git LFS pointer, not the tokenizer: fetch it with `git lfs pull`"
            )
        try:
            return _Backend.from_str(self.content.decode())
        except Exception as exc:  # tokenizers raises bare Exception
            raise ConfigError(
                f"tokenizer {self.name}: expected a `tokenizers` JSON file (tokenizer.json), which it is not ({exc}); "
                f"take {_released()}"
            ) from exc


class ChatTokenizer:
    """Tokenises chunks; satisfies `owl_stream.layouts.Tokenizer`. Short chunks are cached: most of them repeat.

    Special tokens spelled out in a text become their single ids, as with the released processors.
    """

    def __init__(self, name: str, backend: _Backend, tokens: SpecialTokens) -> None:
        # Files from the hub may carry the settings of whoever saved them; rows are padded and cut by the layout.
        backend.no_padding()
        backend.no_truncation()
        demanded = dict.fromkeys([tokens.pad, *tokens.ids])
        missing = [token for token in demanded if not _is_one_token(backend, token)]
        if missing:
            raise ConfigError(
                f"tokenizer {name}: expected {', '.join(demanded)} as single tokens, missing "
                f"{', '.join(missing)}: it is not the tokenizer of a model that a layout is for; take {_released()}"
            )
        for token, number in tokens.ids.items():
            if number is not None and (got := backend.token_to_id(token)) != number:
                raise ConfigError(
                    f"tokenizer {name}: expected {token} to be token {number}, as the model's config.json says, got "
                    f"{got}: it is another model's"
                )
        self.pad_id: int = backend.encode(tokens.pad, add_special_tokens=False).ids[0]
        self._backend, self._words = backend, WordTokenizer.of(backend)
        self._cached: Callable[[str], Tokens] = lru_cache(maxsize=_CACHED_TEXTS)(self._encode)

    def encode(self, text: str) -> Tokens:
        """Tokenise one chunk; offsets are in characters of `text`.

        Raises:
            SampleError: `text_surrogate`, the text cannot be encoded as UTF-8 (a lone surrogate).
        """
        return self._cached(text) if len(text) <= _CACHED_CHARACTERS else self._encode(text)

    def _encode(self, text: str) -> Tokens:
        if self._words is not None and (ids := self._words.encode(text)) is not None:
            return Tokens(ids, _Offsets(self._backend, text))
        try:
            (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=False)
        except TypeError as exc:
            raise SampleError("text_surrogate", f"expected text that UTF-8 can hold, got {text[:40]!a}") from exc
        return Tokens(tuple(encoding.ids), _Offsets(self._backend, text))


class _Offsets(Sequence[tuple[int, int]]):
    """Which characters each token covers; found when first asked for, which only a text that is cut asks."""

    def __init__(self, backend: _Backend, text: str) -> None:
        self._backend, self._text = backend, text

    @cached_property
    def _found(self) -> Sequence[tuple[int, int]]:
        return tuple(self._backend.encode(self._text, add_special_tokens=False).offsets)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._found)

    @overload
    def __getitem__(self, at: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[tuple[int, int]]: ...

    def __getitem__(self, at: int | slice) -> tuple[int, int] | Sequence[tuple[int, int]]:
        return self._found[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment] # compared by content, like a list


def load_tokenizer(spec: str, base: Path, tokens: SpecialTokens | None = None) -> TokenizerFile:
    """Read a tokenizer: a path relative to `base`, or else a hub id (`org/name`), which asks the network.

    `tokens`: what its layout demands; nothing, where ids are only turned back into text.

    A path may be that of a model's directory, which holds a `tokenizer.json`.

    Raises:
        ConfigError: not found, not a tokenizer, or one without the special tokens that its layout demands.
    """
    path = base / spec
    try:
        if path.is_dir():
            path = _inside(path)
        content = path.read_bytes() if path.is_file() else _from_hub(spec, path)
    except OSError as exc:
        raise ConfigError(f"tokenizer {path}: cannot read it: {exc.strerror}") from exc
    tokenizer = TokenizerFile(spec, content, xxhash.xxh3_128_hexdigest(content), tokens)
    if tokens is None:
        tokenizer.parse()
    else:
        tokenizer.build()
    return tokenizer


def _inside(directory: Path) -> Path:
    path = directory / _FILE
    if not path.is_file():
        raise ConfigError(
            f"tokenizer {directory}: a directory without {_FILE}; take {_released()}, or have transformers write one "
            "from other files: AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)"
        )
    return path


def _released() -> str:
    """Where tokenizers come from, in words."""
    return f"the model's own from the hub ({released_models()})"


def _from_hub(spec: str, path: Path) -> bytes:
    reason = f"no file {path}"
    if _HUB_ID.fullmatch(spec) and not spec.endswith(".json"):
        try:
            return str(_Backend.from_pretrained(spec).to_str()).encode()
        except Exception as exc:  # whatever the network stack of the day raises
            reason += f", and the hub says: {' '.join(str(exc).split())}"
    raise ConfigError(
        f"tokenizer not found: expected a tokenizers file or a hub id (org/name), got {spec!r}: {reason}; take "
        f"{_released()}; for a machine without network: "
        f"`hf download ORG/NAME {_FILE} --local-dir .`, copy that file there and name it"
    )


def _is_one_token(backend: Any, token: str) -> bool:
    ids = backend.encode(token, add_special_tokens=False).ids
    return bool(len(ids) == 1 and ids[0] == backend.token_to_id(token))
