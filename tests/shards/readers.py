"""A shard's samples as webdataset reads them, and as a scan finds and then reads them."""

from __future__ import annotations

from pathlib import Path

from webdataset.tariterators import group_by_keys, tar_file_expander

from owl_stream.shards import Quarantined, Shard, find_shards, read_sample, read_span
from owl_stream.shards.scan import scan_shard
from tests.shards.measures import member_cost

Groups = list[tuple[str, dict[str, bytes]]]
"""(key, {extension: bytes}) of each sample, in the order of the tar."""


def shard_at(path: Path) -> Shard:
    """The file as it is now."""
    (shard,) = find_shards([path.name], path.parent)
    return shard


def theirs(path: Path) -> Groups:
    """What webdataset makes of a shard."""
    with path.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
    return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in samples]


def scanned(path: Path) -> tuple[Groups, tuple[Quarantined, ...]]:
    """The good samples, read back span by span, and the findings."""
    shard = shard_at(path)
    table, costs = scan_shard(shard, member_cost, lambda *_: None)
    assert not costs.findings, "a sample that the scan takes for good must be read as one"
    groups = []
    for block, length, digest in table.spans.tolist():
        sample = read_sample(shard.name, read_span(shard.path, block * 512, length, digest), block * 512)
        groups.append((sample.key, {m.ext: bytes(m.data) for m in sample.members}))
    return groups, table.findings


def ours(path: Path) -> Groups:
    """The samples of a shard in which everything is good."""
    groups, findings = scanned(path)
    assert not findings
    return groups
