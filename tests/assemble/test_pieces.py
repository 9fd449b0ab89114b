"""Ids back to bytes: joined, the pieces of a text are the text, whatever kind of vocabulary it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from owl_stream.assemble import load_tokenizer
from owl_stream.assemble.pieces import Pieces
from owl_stream.errors import RequestError
from tests.support.tokenizer import small_tokenizer

TEXTS = ("What is in this image?\n", "é ▁ Ġ <0x41>", "猫がいます 🦉 नमस्ते", "<|im_start|>user\n<|image|><|im_end|>")


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text(tmp_path: Path, text: str) -> None:
    """Characters that are spread over several tokens, special tokens and look-alikes of the byte alphabet included."""
    tokenizer = load_tokenizer(str(small_tokenizer(tmp_path / "t.json")), Path())
    ids = tokenizer.parse().encode(text, add_special_tokens=False).ids
    assert b"".join(Pieces(tokenizer).of(ids)).decode() == text


def test_a_vocabulary_of_words_with_byte_fallback_is_read_too(tmp_path: Path) -> None:
    """Vocabularies that mark words with U+2581 and spell bytes as <0xE7> give spaces and bytes; no layout is asked."""
    vocabulary = {"▁the": 0, "é": 1, "<0xE7>": 2}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    backend.add_special_tokens([AddedToken("<pad>", special=True)])
    backend.save(str(tmp_path / "t.json"))
    pieces = Pieces(load_tokenizer("t.json", tmp_path))
    assert pieces.of([0, 1, 2, 3]) == [b" the", "é".encode(), b"\xe7", b"<pad>"]
    with pytest.raises(RequestError, match="token 7: expected an id of the vocabulary, which has 4 tokens"):
        pieces.of([7])
