"""Measures for tests: module-level, so that indexing processes can be given them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from owl_stream.errors import ConfigError, SampleError
from owl_stream.shards import Cost, Measure, RowSize, Sample, read_record


def conversation_cost(sample: Sample) -> Cost:
    """Characters for tokens, images for units."""
    record = read_record(sample)
    text = sum(len(message.content) for message in record.messages)
    answers = sum(len(message.content) for message in record.messages if message.role == "assistant")
    return Cost(RowSize(text, answers, len(record.images), 10 * len(record.images)))


def member_cost(sample: Sample) -> Cost:
    """Any sample is good: its members, and those that end in jpg as units."""
    images = sum(member.ext.endswith("jpg") for member in sample.members)
    return Cost(RowSize(len(sample.members), 1, images, 10 * images))


def recorded_cost(sample: Sample) -> Cost:
    """The numbers of a `RowSize`, which the sample's JSON member lists."""
    (member,) = sample.members
    return Cost(RowSize(*json.loads(bytes(member.data))))


def _refuse_odd(sample: Sample) -> Cost:
    if int(sample.key.rpartition("/")[2]) % 2:
        raise SampleError("odd", "an odd key")
    return member_cost(sample)


def _keep_key(sample: Sample) -> Cost:
    return replace(member_cost(sample), row=f"row of {sample.key}".encode())


def _keep_even_key(sample: Sample) -> Cost:
    _refuse_odd(sample)
    return _keep_key(sample)


def _crash(_sample: Sample) -> Cost:
    os._exit(139)


def conversations() -> Measure:
    """A factory."""
    return conversation_cost


def members() -> Measure:
    """A factory."""
    return member_cost


def as_recorded() -> Measure:
    """A factory of a measure that takes a sample's word for its size."""
    return recorded_cost


def even_only() -> Measure:
    """A factory of a measure that refuses odd keys."""
    return _refuse_odd


def key_kept() -> Measure:
    """A factory of a measure that wants every sample's key back."""
    return _keep_key


def even_only_kept() -> Measure:
    """The same, which refuses odd keys."""
    return _keep_even_key


def crashing() -> Measure:
    """A factory of a measure that takes its process down."""
    return _crash


def unmade() -> Measure:
    """A factory that fails."""
    raise ConfigError("no such tokenizer: t.json")


class Recording:
    """A factory whose measure notes, in files, which shards it saw; works across processes."""

    def __init__(self, directory: Path, base: Measure = member_cost) -> None:
        self.directory, self.base = directory, base

    def __call__(self) -> Measure:
        """The measure."""
        return self._measure

    def _measure(self, sample: Sample) -> Cost:
        (self.directory / sample.shard.replace("/", "_")).touch()
        return self.base(sample)

    def seen(self) -> list[str]:
        """The shards seen since the last call."""
        names = sorted(path.name for path in self.directory.iterdir())
        for name in names:
            (self.directory / name).unlink()
        return names
