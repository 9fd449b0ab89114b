"""A turn's content as a list of typed parts, as transformers writes it."""

from __future__ import annotations

from owl_stream.errors import SampleError
from owl_stream.records.document import kind
from owl_stream.records.fields import is_empty

_PARTS = {"text": "", "image": "<|image|>", "video": "<|video|>"}
"""What stands for a part in a turn's text: nothing of its own for text, our markers for media."""


def joined_parts(parts: list[object], where: str) -> str:
    """The text of typed parts, as transformers writes them: `{"type": "text", "text": ...}`, `{"type": "image"}`.

    Raises:
        SampleError: a part of another kind, or one that names a medium: media are listed for the whole record.
    """
    texts = []
    for at, part in enumerate(parts):
        place = f"{where}[{at}]"
        if not isinstance(part, dict):
            raise SampleError("record_type", f"{place}: expected an object with `type`, got {kind(part)}")
        of = part.get("type")
        known = _PARTS.get(of) if isinstance(of, str) else None
        if known is None:
            raise SampleError("record_type", f"{place}.type: expected {', '.join(_PARTS)}, got {str(of)[:40]!r}")
        named = sorted(str(name) for name in part if name not in ("type", "text") and not is_empty(part[name]))
        if named:
            raise SampleError(
                "turn_media",
                f"{place}: expected no `{named[0][:40]}`: list media in `images` or `videos` of the record",
            )
        if known:
            texts.append(known)
            continue
        text = part.get("text")
        if not isinstance(text, str):
            raise SampleError("record_type", f"{place}.text: expected a string, got {kind(text)}")
        texts.append(text)
    return "".join(texts)
