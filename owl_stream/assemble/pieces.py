"""Token ids back to bytes, for people who want to read a batch."""

from __future__ import annotations

import re
from collections.abc import Iterable

from owl_stream.assemble.tokenizer import TokenizerFile
from owl_stream.errors import RequestError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_WORD_START = "▁"


class Pieces:
    """What each id of a vocabulary stands for. A piece is bytes, not text: a character may be spread over several.

    Parses the tokenizer when made, which takes half a second for 150,000 tokens.
    """

    def __init__(self, tokenizer: TokenizerFile) -> None:
        self._backend = tokenizer.parse()
        self._added = {number: token.content for number, token in self._backend.get_added_tokens_decoder().items()}
        # The decoder's own JSON; of a sequence of decoders nothing else says what it is made of.
        state: bytes = self._backend.decoder.__getstate__() if self._backend.decoder else b""
        self._alphabet = _byte_alphabet() if b"ByteLevel" in state else None

    def of(self, ids: Iterable[int]) -> list[bytes]:
        """The piece of each id.

        Raises:
            RequestError: an id that the vocabulary does not have.
        """
        return [self._piece(number) for number in ids]

    def _piece(self, number: int) -> bytes:
        token = self._added.get(number) or self._backend.id_to_token(number)
        if token is None:
            size = self._backend.get_vocab_size()
            raise RequestError(f"token {number}: expected an id of the vocabulary, which has {size} tokens")
        if number in self._added:
            return token.encode()
        if self._alphabet is not None and all(character in self._alphabet for character in token):
            return bytes(self._alphabet[character] for character in token)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace(_WORD_START, " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """The printable character by which byte-level BPE writes each byte (the table of GPT-2's vocabulary)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
