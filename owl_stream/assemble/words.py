"""A short way from plain English text to token ids, for tokenizers built like Qwen2's: each word is looked up once.

Such a tokenizer cuts a text into words by a fixed pattern and encodes every word by itself. For printable ASCII that
pattern is an ordinary regular expression and its Unicode normalisation does nothing, so equal words give equal ids,
several times faster than through the whole pipeline. Anything else, of text or tokenizer, is refused: `None`.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ASCII_SPLIT = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\na-zA-Z0-9]?[a-zA-Z]+|[0-9]| ?[^\sa-zA-Z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PLAIN = re.compile(r"[\n\r -~]*")
_BYTE_LEVEL = str.maketrans({" ": "\u0120", "\n": "\u010a", "\r": "\u010d"})
"""How byte-level BPE spells these bytes; printable ASCII stands for itself."""

_MAX_WORDS, _MAX_WORD_CHARACTERS = 1 << 16, 32


class WordTokenizer:
    """Encodes plain text word by word. Safe to share between threads: what they both find is the same."""

    def __init__(self, backend: Tokenizer) -> None:
        added = {token.content: number for number, token in backend.get_added_tokens_decoder().items()}
        longest_first = sorted(added, key=len, reverse=True)
        self._added = added
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if added else None
        self._known = _Words(backend.model)

    @classmethod
    def of(cls, backend: Tokenizer) -> WordTokenizer | None:
        """One for this tokenizer, if it is of the kind."""
        return cls(backend) if _is_of_the_kind(backend) else None

    def encode(self, text: str) -> tuple[int, ...] | None:
        """The ids of a text, or None where only the whole pipeline knows."""
        if not _PLAIN.fullmatch(text):
            return None
        ids: list[int] = []
        for part in self._cut.split(text) if self._cut is not None else (text,):
            if part in self._added:
                ids.append(self._added[part])
                continue
            ids += chain.from_iterable(map(self._known.__getitem__, _ASCII_SPLIT.findall(part)))
        return tuple(ids)


class _Words(dict[str, tuple[int, ...]]):
    """Word -> ids, found by the model when first asked for."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(token.id for token in self._model.tokenize(word.translate(_BYTE_LEVEL)))
        if len(word) <= _MAX_WORD_CHARACTERS:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _is_of_the_kind(backend: Tokenizer) -> bool:
    """Whether a word's ids depend on nothing but the word: every part of the pipeline is one that is known here."""
    model = backend.model
    plain_model = type(model).__name__ == "BPE" and not (
        model.dropout
        or model.unk_token
        or model.continuing_subword_prefix
        or model.end_of_word_suffix
        or model.byte_fallback
    )
    plain_added = not any(
        token.lstrip or token.rstrip or token.single_word or token.normalized or not token.content
        for token in backend.get_added_tokens_decoder().values()
    )
    return (
        plain_model
        and plain_added
        and not backend.encode_special_tokens
        and _state(backend.normalizer) in (None, {"type": "NFC"})
        and _state(backend.pre_tokenizer) == _pre_tokenizer()
        and (_state(backend.post_processor) or {"type": "ByteLevel"})["type"] == "ByteLevel"
    )


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _pre_tokenizer() -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False}
    spell = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, spell]}
