"""From the bytes of a header to its record, by a decoder that knows the record's types.

It makes only what the record holds: keys that it does not know are passed over unread, and a list is refused by its
length before any of it is made. So the memory that a header costs is in proportion to its bytes, whoever wrote it.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec

from owl_stream.errors import FrameError
from owl_stream.wire.headers import Header

_MOST_TOLD = 400
"""Characters of an explanation: it may quote what was got."""


class _Kind(msgspec.Struct, frozen=True):
    """The part that says how to read the rest."""

    kind: Annotated[str, msgspec.Meta(max_length=64)]


_KIND = msgspec.msgpack.Decoder(_Kind)
_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    record.kind: msgspec.msgpack.Decoder(record) for record in get_args(Header)
}


def read_header(packed: memoryview) -> Header:
    """Read a header.

    Raises:
        FrameError: it is no msgpack map, of an unknown kind, lacks a key, or has a value of the wrong type or out of
            bounds; the message names the kind and the key.
    """
    kind: str = _decode(_KIND, packed, "frame header").kind
    if kind not in _DECODERS:
        raise FrameError(f"frame header: expected a kind of {', '.join(_DECODERS)}, got {kind!r:.80}")
    header: Header = _decode(_DECODERS[kind], packed, f"{kind} frame")
    return header


def explain(error: Exception) -> str:
    """What a typed decoder found wrong, as in `Expected 'int', got 'str' - at 'rows[0].key'`."""
    return str(error).replace("`$.", "`").replace("`object`", "`map`").replace("`", "'")[:_MOST_TOLD]


def _decode(decoder: msgspec.msgpack.Decoder[Any], packed: memoryview, place: str) -> Any:
    try:
        return decoder.decode(packed)
    except (ValueError, RecursionError) as exc:  # a ValueError is msgspec's own; nesting ends at Python's limit
        raise FrameError(f"{place}, {packed.nbytes} bytes of msgpack: {explain(exc)}") from exc
