"""What a server says of a dataset before anything is streamed, read with the same bounds as the headers of frames."""

from __future__ import annotations

import msgspec

from owl_client.transport import Description
from owl_stream.errors import ServerError
from owl_stream.wire.bounds import Name, NamedTexts, RowCount, StepCount
from owl_stream.wire.decoding import explain


class _Answer(msgspec.Struct, frozen=True):
    """The part of the JSON that a client needs; other keys are passed over unread."""

    name: Name
    layout: Name
    fingerprint: Name
    components: NamedTexts
    assembly: Name
    global_batch_size: RowCount
    steps_per_epoch: StepCount


_ANSWER = msgspec.json.Decoder(_Answer)


def read_description(url: str, body: bytes, dataset: str = "") -> Description:
    """Read the JSON of `GET /v1/datasets/{name}`; `dataset` is the name that was asked for, where one was.

    Raises:
        ServerError: it is not what an owl-stream server answers, or is of another dataset.
    """
    try:
        answer = _ANSWER.decode(body)
    except (ValueError, RecursionError) as exc:  # a ValueError is msgspec's own; nesting ends at Python's limit
        raise ServerError(
            f"{url}: expected the description of a dataset, got other JSON or none: {explain(exc)}; "
            f"is it an owl-stream server?"
        ) from exc
    if dataset and answer.name != dataset:
        raise ServerError(f"{url}: expected the description of dataset {dataset!r}, got that of {answer.name!r:.80}")
    return Description(**msgspec.structs.asdict(answer))
