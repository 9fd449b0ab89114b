"""Rows that indexing has kept: the same frames in less time, and the same frames without them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owl_stream.assemble import Assembler, Dataset
from owl_stream.assemble.encode import EncodedSample, Encoder
from owl_stream.assemble.files import MAX_OPEN_SHARDS
from owl_stream.assemble.kept import pack, unpack
from owl_stream.errors import DataChangedError
from owl_stream.shards import read_sample, read_span
from tests.support.assembly import Made, make_dataset, reopen, run_at
from tests.support.datasets import mixed_samples
from tests.support.descriptors import open_below
from tests.support.images import damaged_jpeg
from tests.support.layouts import QWEN, every_layout
from tests.support.tars import chat, picture, write_shard


def rich_samples() -> list[tuple[str, dict[str, bytes]]]:
    """Every kind of medium, long texts that are cut, and an image that no decoder can read."""
    frames = {f"{n}.jpg": picture(30, 30, n) for n in range(3)}
    video = chat(("<|video|>What happens?", "It flies."), videos=[[f"{n}.jpg" for n in range(3)]])
    long = chat(("<|image|>Tell me all.", "So it was. " * 400))
    return [
        *mixed_samples(6),
        ("video", {"json": video, **frames}),
        ("wide", {"json": chat(("<|image|>Wide?", "Yes.")), "jpg": picture(200, 50, 8)}),
        ("long", {"json": long, "jpg": picture(40, 40, 9)}),
        ("harm", {"json": chat(("<|image|>Bad?", "Yes.")), "jpg": damaged_jpeg(picture(160, 120, 1))}),
        ("ünï/cödé", {"json": chat(("Grüß dich.", "Ebenso 🦉."))}),
    ]


def frames_of(dataset: Dataset, size: int = 4) -> list[Made]:
    """All micro-batches of epoch 0."""
    micros = dataset.global_batch_size // size
    return [
        run_at(dataset, step, micro, size=size) for step in range(dataset.steps_per_epoch) for micro in range(micros)
    ]


def same(one: EncodedSample, other: EncodedSample) -> bool:
    """Whether two encoded samples are equal in every field."""
    arrays = all(
        a.dtype == b.dtype == np.int64 and np.array_equal(a, b)
        for a, b in (
            (one.row.input_ids, other.row.input_ids),
            (one.row.unit_starts, other.row.unit_starts),
            (one.row.labels, other.row.labels),
        )
    )
    rest = (one.key, one.row.supervised, one.row.visuals, one.row.size, one.row.truncated, one.pictures) == (
        other.key,
        other.row.supervised,
        other.row.visuals,
        other.row.size,
        other.row.truncated,
        other.pictures,
    )
    return arrays and rest


def encoded_samples(dataset: Dataset) -> Iterator[tuple[EncodedSample, bytes, int]]:
    """Every sample of an epoch as the encoder makes it, with its bytes and where they begin."""
    factory = dataset.assembler_factory
    encoder = Encoder(factory.recipe, factory.tokenizer.build())
    for step in range(dataset.steps_per_epoch):
        for row in dataset.job(0, step, 0, 0, 1, dataset.global_batch_size).spares:
            shard = factory.shards[row.shard]
            span = read_span(shard.path, row.offset, row.length, row.digest)
            yield encoder.encode(read_sample(shard.name, span, row.offset)), span, row.offset


@pytest.mark.parametrize("cut", ["off", "single", "all"])
def test_what_is_packed_comes_back(tmp_path: Path, opened: list[Dataset], cut: str) -> None:
    """Types included, with the pictures' bytes taken from the sample."""
    dataset = make_dataset(tmp_path, rich_samples(), cut=cut, max_length=300)
    opened.append(dataset)
    seen = list(encoded_samples(dataset))
    assert len(seen) == len(rich_samples())
    assert any(encoded.row.truncated for encoded, _, _ in seen)
    for encoded, span, offset in seen:
        assert same(unpack(pack(encoded, offset), span, offset), encoded), encoded.key


def test_real_samples_come_back(tmp_path: Path, shared_data: Path, opened: list[Dataset]) -> None:
    """With the real tokenizer, whose vocabulary needs more than two bytes an id."""
    for number, tar in enumerate(sorted((shared_data / "real").glob("*.tar"))):
        shutil.copy(tar, tmp_path / f"s-{number:03d}.tar")
    settings: dict[str, Any] = {"tokenizer": str(shared_data / "qwen2-tokenizer.json"), "max_length": 4096}
    dataset = reopen(tmp_path, image_size=384, **settings)
    opened.append(dataset)
    count = 0
    for encoded, span, offset in encoded_samples(dataset):
        assert same(unpack(pack(encoded, offset), span, offset), encoded), encoded.key
        count += 1
    assert count == dataset.samples


@pytest.mark.parametrize(
    ("layout", "cut"), [*product(("owl3-240728", "owl3-241101"), ("off", "all")), (QWEN, "")], ids="-".join
)
def test_frames_are_the_same_bytes(tmp_path: Path, opened: list[Dataset], layout: str, cut: str) -> None:
    """With kept rows nothing is tokenised, without them everything is; fingerprint and frames do not tell."""
    settings: dict[str, Any] = {"layout": layout, "cut": cut, "max_length": 300, "modality": "off"}
    kept = make_dataset(tmp_path, [rich_samples()[:5], rich_samples()[5:]], **settings)
    anew = reopen(tmp_path, keep_rows=False, **settings)
    opened += [kept, anew]
    assert kept.fingerprint == anew.fingerprint
    quick, slow = frames_of(kept), frames_of(anew)
    assert [made.frame for made in quick] == [made.frame for made in slow]
    assert {row.status for made in quick for row in made.rows} >= {"ok", "masked"}
    assert sum(made.assembled.tokenised for made in quick) == 0
    assert sum(made.assembled.tokenised for made in slow) == kept.samples


@every_layout
@pytest.mark.parametrize(
    "harm", ["flipped", "rows", "entries", "count", "vanished", "cut", "another recipe's", "another shard's"]
)
def test_a_harmed_row_table_changes_nothing_but_time(
    tmp_path: Path, layout: str, opened: list[Dataset], harm: str
) -> None:
    """While it is served: rows that are not to be had are tokenised, and counted."""
    shards = [mixed_samples(6, first, layout=layout) for first in (0, 6)]
    dataset = make_dataset(tmp_path, shards, layout=layout)
    opened.append(dataset)
    right = [made.frame for made in frames_of(dataset)]
    tables = dataset.assembler_factory.rows
    assert tables is not None
    first, second = (tables.path(shard) for shard in dataset.assembler_factory.shards)
    raw = first.read_bytes()
    if harm == "flipped":
        first.write_bytes(bytes(byte ^ 1 for byte in raw))
    elif harm == "rows":  # the table opens, and no row in it is right
        first.write_bytes(bytes(byte ^ 1 for byte in raw[:-200]) + raw[-200:])
    elif harm == "entries":  # those of two neighbours change places, three times
        entries, footer = raw[-200:-80], raw[-80:]
        swapped = b"".join(entries[at + 20 : at + 40] + entries[at : at + 20] for at in range(0, 120, 40))
        first.write_bytes(raw[:-200] + swapped + footer)
    elif harm == "count":
        first.write_bytes(raw[:-9] + b"\x10" + raw[-8:])
    elif harm == "vanished":
        first.unlink()
    elif harm == "cut":
        first.write_bytes(raw[: len(raw) // 2])
    elif harm == "another shard's":
        shutil.copy(second, first)
    else:
        opened.append(reopen(tmp_path, layout=layout, max_length=250))
        (other,) = set(first.parent.glob(f"{first.name.rsplit('.', 2)[0]}.*.rows")) - {first}
        shutil.copy(other, first)
    made = frames_of(dataset)
    assert [each.frame for each in made] == right
    assert sum(each.assembled.tokenised for each in made) == 6


@every_layout
def test_a_kept_row_does_not_hide_a_change(tmp_path: Path, layout: str, opened: list[Dataset]) -> None:
    """The sample's own bytes are read and held against the index all the same, text-only rows too."""
    samples = [(f"{n}", {"json": chat((f"Say {n}.", "Well."))}) for n in range(4)]
    dataset = make_dataset(tmp_path, samples, layout=layout)
    opened.append(dataset)
    write_shard(tmp_path / "s-000.tar", [(key, {"json": parts["json"][::-1]}) for key, parts in samples])
    with pytest.raises(DataChangedError, match="index again"):
        run_at(dataset, 0)


def test_few_row_tables_are_held_open_at_a_time(tmp_path: Path, opened: list[Dataset]) -> None:
    """As of shards, however many there are; closing the assembler closes them."""
    shards = MAX_OPEN_SHARDS + 6
    samples = [mixed_samples(1, n) for n in range(shards)]
    dataset = make_dataset(tmp_path, samples, global_batch_size=shards, modality="off")
    opened.append(dataset)
    assembler: Assembler = dataset.assembler()
    job = dataset.job(0, 0, 0, 0, 1, shards)
    buffer = memoryview(bytearray(dataset.capacity(job)))
    assert assembler.assemble(job, buffer).tokenised == 0
    assert open_below(tmp_path, ".rows") == MAX_OPEN_SHARDS
    assembler.close()
    assert open_below(tmp_path, ".rows") == 0


def test_rows_lie_in_the_index_directory(tmp_path: Path, opened: list[Dataset]) -> None:
    """One table a shard, of about four bytes a token and a picture's place each."""
    dataset = make_dataset(tmp_path / "d", mixed_samples(40))
    elsewhere = reopen(tmp_path / "d", index_dir=tmp_path / "i", keep_rows=True)
    opened += [dataset, elsewhere]
    assert len(list((tmp_path / "d/.owl-index").glob("*.rows"))) == 1
    assert len(list((tmp_path / "i").glob("*.rows"))) == 1
    tables = elsewhere.assembler_factory.rows
    assert tables is not None
    (shard,) = elsewhere.assembler_factory.shards
    tokens = sum(row.size.text_tokens for step in range(10) for row in elsewhere.job(0, step, 0, 0, 1, 4).spares)
    assert 4 * tokens < tables.path(shard).stat().st_size < 4 * tokens + 40 * 160


def test_keeping_rows_changes_no_cost(tmp_path: Path, opened: list[Dataset]) -> None:
    """So an index may be completed with them and keeps its fingerprint."""
    anew = make_dataset(tmp_path, rich_samples(), keep_rows=False)
    kept = reopen(tmp_path)
    opened += [anew, kept]
    assert kept.components == anew.components
