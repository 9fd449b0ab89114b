"""The real Qwen2 vocabulary, rebuilt from the ranks in the `dashscope` wheel, for tests that compare with the release.

The wheel is never imported: only its data file is read. A rank file lists byte strings in the order in which byte pair
encoding made them, so each entry's merge is the last step of encoding it with the entries before it.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from importlib.metadata import files
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "qwen2-tokenizer.json"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen2_tokenizer_path() -> Path:
    """Build the tokenizer as a `tokenizers` file once (a few seconds) and return where it lies."""
    if not CACHE.is_file():
        CACHE.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=CACHE.parent, suffix=".part", delete=False, encoding="utf-8") as out:
            json.dump(_tokenizer(_ranks()), out, ensure_ascii=False)
        os.replace(out.name, CACHE)
    return CACHE


def _ranks() -> dict[bytes, int]:
    listed = files("dashscope") or []
    [entry] = [file for file in listed if file.name == "qwen.tiktoken"]
    lines = Path(str(entry.locate())).read_text(encoding="ascii").splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def _tokenizer(ranks: dict[bytes, int]) -> dict[str, object]:
    letters = _byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [[spell(part) for part in _merge(token, ranks)] for token in sorted(ranks, key=ranks.__getitem__)
              if len(token) > 1]  # fmt: skip
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": len(ranks) + i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {spell(token): rank for token, rank in ranks.items()}, "merges": merges},
    }


def _merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Encode `token` with the ranks below its own: two parts are left, and they are its merge."""
    parts = [token[i : i + 1] for i in range(len(token))]
    own = ranks[token]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], own) for i in range(len(parts) - 1)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        assert pairs[best] < own, token
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    left, right = parts
    return left, right


def _byte_letters() -> dict[int, str]:
    """Byte-level BPE's alphabet: printable Latin-1 bytes stand for themselves, the others for letters from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(0x100 + i) for i, b in enumerate(others)}}
