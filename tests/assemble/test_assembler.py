"""Assembly: right rows, equal bytes, and bad samples that neither stop a batch nor vanish from it."""

from __future__ import annotations

import errno
import os
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owl_stream.assemble import (
    NO_MEMORY,
    STAGES,
    Assembler,
    Dataset,
    Header,
    Job,
    OutOfMemoryError,
    SampleLimits,
    decode,
)
from owl_stream.assemble.files import MAX_OPEN_SHARDS, ShardFiles
from owl_stream.assemble.images import Decoded
from owl_stream.errors import (
    ContractError,
    DataChangedError,
    OwlStreamError,
    ReadError,
    SampleError,
    WorkerError,
)
from owl_stream.layouts import get_layout
from tests.support.assembly import Made, make_dataset, reopen, run_at, run_job
from tests.support.descriptors import open_below
from tests.support.images import damaged_jpeg, huge_header, png_bomb, released, scans_jpeg
from tests.support.layouts import OWL, QWEN, every_layout
from tests.support.tars import Sample, chat, picture

ALL_LAYOUTS = (OWL, "owl3-241101", QWEN)
DECODE = "owl_stream.assemble.images.decode"


def photo_sample(key: str, image: bytes, answer: str = "An owl.") -> Sample:
    """One image and one turn."""
    return key, {"json": chat(("<|image|>What is it?", answer)), "jpg": image}


def good(key: str, seed: int) -> Sample:
    """A sample whose image decodes."""
    return photo_sample(key, picture(60 + seed, 40, seed), "An owl" + " sits" * seed + ".")


def bad(key: str, seed: int = 0) -> Sample:
    """A sample that passes indexing and fails in the decoder."""
    return photo_sample(key, damaged_jpeg(picture(160, 120 + seed, 99 + seed)), "A cat.")


def video(key: str, harmed: int | None = None) -> Sample:
    """Five frames and a question about them; the one at `harmed` passes indexing and fails in the decoder."""
    frames = {f"f{at}.jpg": picture(160, 120, 50 + at) for at in range(5)}
    if harmed is not None:
        frames[f"f{harmed}.jpg"] = damaged_jpeg(frames[f"f{harmed}.jpg"])
    return key, {"json": chat(("<|video|>What happens?", "It flies."), videos=[list(frames)]), **frames}


def text(key: str, answer: str = "No picture here.") -> Sample:
    """A sample without images."""
    return key, {"json": chat(("Say something.", answer))}


def by_key(made: Made) -> dict[str, int]:
    """Row numbers by key."""
    return {row.key: number for number, row in enumerate(made.rows)}


def test_a_batch_holds_what_its_samples_say(tmp_path: Path, opened: list[Dataset]) -> None:
    """Text tensors, crops in row order and counts, with `resize: pillow` equal to Pillow's own pixels."""
    samples = [
        photo_sample("a", picture(60, 40, 1), "An owl sits there, quite still."),
        (
            "b",
            {
                "json": chat(("<|image|><|image|>Compare.", "Two.")),
                "0.png": picture(9, 9, 2, "PNG"),
                "1.jpg": picture(8, 70),
            },
        ),
    ]
    dataset = make_dataset(tmp_path, samples, resize="pillow", cut="off", global_batch_size=2)
    opened.append(dataset)
    made = run_at(dataset, 0, size=2)
    assert [(row.shard, row.key, row.status, row.reason) for row in made.rows] == [
        ("s-000.tar", "a", "ok", ""),
        ("s-000.tar", "b", "ok", ""),
    ]
    images = [samples[0][1]["jpg"], samples[1][1]["0.png"], samples[1][1]["1.jpg"]]
    for crop, image in zip(made.tensors["pixel_values"], images, strict=True):
        expected = Image.fromarray(released(image)).resize((28, 28), Image.Resampling.BICUBIC)
        assert np.array_equal(crop, np.asarray(expected).transpose(2, 0, 1))
    assert (made.header.units, made.header.vision_tokens) == (3, 3 * (28 // 14) ** 2)
    assert made.header.lengths == {"B": 2, "L": made.tensors["input_ids"].shape[1], "C": 3}
    assert made.header.attended_tokens == made.tensors["attention_mask"].sum()
    assert made.header.supervised_tokens == made.header.step_supervised_tokens == (made.tensors["labels"] != -100).sum()
    assert [spec.name for spec in made.header.tensors][-1] == "pixel_values"
    assert all(spec.offset % 64 == 0 for spec in made.header.tensors)
    assert made.assembled.report.rows_with_media == 2
    assert made.assembled.counts["units"] == 3
    assert set(made.assembled.seconds) == set(STAGES)
    assert made.assembled.counts["rows_ok"] == 2


def test_a_text_only_batch_has_no_pixels(tmp_path: Path, opened: list[Dataset]) -> None:
    """`pixel_values` is absent, not empty."""
    dataset = make_dataset(tmp_path, [text(str(n)) for n in range(4)])
    opened.append(dataset)
    made = run_at(dataset, 0)
    assert "pixel_values" not in made.tensors
    assert (made.header.units, made.header.vision_tokens, made.header.lengths["C"]) == (0, 0, 0)
    assert made.assembled.report.text_only_rows == 4


@pytest.mark.parametrize("layout", ["owl3-240728", "owl3-241101"])
def test_video_frames_are_sampled_and_decoded_in_order(tmp_path: Path, layout: str, opened: list[Dataset]) -> None:
    """Of 20 frames 16 are used; the crops are just these, and the image of the same record follows them."""
    frames = {f"f{n:02d}.png": picture(28, 28, n, "PNG") for n in range(20)}
    still = picture(28, 28, 77, "PNG")
    record = chat(
        ("<|video|>then<|image|>What?", "Owls."), videos=[[f"v.{name}" for name in frames]], images=["v.still.png"]
    )
    members = {"json": record, "still.png": still, **frames}
    dataset = make_dataset(tmp_path, [("v", members)], layout=layout, cut="off", global_batch_size=1, resize="pillow")
    opened.append(dataset)
    made = run_at(dataset, 0, size=1)
    used = [(2 * i * 19 + 15) // 30 for i in range(16)]
    images = [frames[f"f{n:02d}.png"] for n in used] + [still]
    assert np.array_equal(made.tensors["pixel_values"], [released(image).transpose(2, 0, 1) for image in images])


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_two_assemblers_write_equal_bytes(tmp_path: Path, layout: str, opened: list[Dataset]) -> None:
    """A frame depends on the job alone: not on the assembler's past, nor on what was in the buffer."""
    samples = [good(f"g{n}", n) for n in range(5)] + [bad("bad"), text("t"), video("v")]
    dataset = make_dataset(tmp_path, samples, layout=layout, cut="all", modality="off", global_batch_size=8)
    opened.append(dataset)
    seasoned, fresh = dataset.assembler(), dataset.assembler_factory()
    jobs = [dataset.job(0, 0, micro, 0, 1, 2) for micro in range(4)]
    for job in reversed(jobs):
        run_job(dataset, job, seasoned)
    for job in jobs:
        again = Job.from_bytes(job.to_bytes())
        assert run_job(dataset, job, seasoned).frame == run_job(dataset, again, fresh, fill=0x17).frame
    seasoned.close()
    fresh.close()


@every_layout
def test_a_bad_sample_is_masked_and_named(tmp_path: Path, layout: str, opened: list[Dataset]) -> None:
    """Its row keeps ids, offsets and shape; crops are mid-grey, labels -100; the reason says shard, member, offset."""
    dataset = make_dataset(tmp_path, [good("a", 1), bad("broken"), good("c", 3), good("d", 4)], layout=layout)
    opened.append(dataset)
    made = run_at(dataset, 0)
    row = by_key(made)["broken"]
    info = made.rows[row]
    assert info.status == "masked"
    assert info.reason.startswith("shard s-000.tar, sample broken, member broken.jpg @ ")
    assert info.reason.endswith("; the row was masked")
    member = (tmp_path / "s-000.tar").read_bytes().index(damaged_jpeg(picture(160, 120, 99)))
    assert f" @ {member}: JPEG: " in info.reason
    assert made.labels(row).size == 0
    assert made.tensors["attention_mask"][row].sum() > 10
    assert (made.crops(row) == 128).all()
    assert len(made.crops(row)) > 1
    others = sum(made.labels(other).size for other in range(4) if other != row)
    assert made.header.supervised_tokens == others < made.header.step_supervised_tokens
    assert made.assembled.counts["rows_masked"] == 1


@pytest.mark.parametrize("medium", ["image", "video"])
@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_every_other_row_is_bit_identical_beside_a_bad_one(
    tmp_path: Path, layout: str, medium: str, opened: list[Dataset]
) -> None:
    """The same batch with and without the damage differs in the one row's labels and pixels, and in nothing else."""
    whole = picture(160, 120, 99)
    sound, harmed = video("x"), video("x", harmed=2)
    if medium == "image":
        sound, harmed = (photo_sample("x", data, "A cat.") for data in (whole, damaged_jpeg(whole)))
    settings: dict[str, Any] = {"layout": layout, "modality": "off", "cut": "all", "global_batch_size": 5}
    rest = [good("a", 1), good("c", 3), text("t"), video("v")]
    for name, sample in (("sound", sound), ("broken", harmed)):
        opened.append(make_dataset(tmp_path / name, [*rest[:1], sample, *rest[1:]], **settings))
    one, other = (run_at(dataset, 0, size=5) for dataset in opened)
    row = by_key(other)["x"]
    assert [info.key for info in one.rows] == [info.key for info in other.rows]
    assert [info.key for info in other.rows if info.status == "masked"] == ["x"]
    assert one.header.tensors == other.header.tensors
    for name in one.tensors.keys() - {"labels", "pixel_values", "pixel_values_videos"}:
        assert np.array_equal(one.tensors[name], other.tensors[name]), name
    for n in range(5):
        before, after = one.drawn(n), other.drawn(n)
        if n == row:
            assert after
            assert {name: pixels.shape for name, pixels in before.items()} == {n: p.shape for n, p in after.items()}
            assert all((pixels == 128).all() for pixels in after.values())
            assert (other.tensors["labels"][n] == -100).all()
            continue
        assert np.array_equal(one.tensors["labels"][n], other.tensors["labels"][n])
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("percent", range(5, 100, 5))
def test_fault_57_every_cut_of_a_jpeg_is_counted_once(tmp_path: Path, percent: int, opened: list[Dataset]) -> None:
    """A plain cut is quarantined at indexing; one with an end marker behind it is masked: neither reaches a trainer."""
    whole = picture(200, 150, 5)
    cut = whole[: len(whole) * percent // 100]
    closed = photo_sample("closed", cut + b"\xff\xd9")
    dataset = make_dataset(tmp_path, [good("a", 1), photo_sample("cut", cut), closed, good("d", 4)])
    opened.append(dataset)
    found = {finding["key"]: finding["reason"] for finding in dataset.quarantine()}
    assert found["cut"] == "jpeg_truncated"
    made = run_at(dataset, 0)
    statuses = {row.key: row.status for row in made.rows}
    assert statuses["a"] == statuses["d"] == "ok"
    assert ("closed" in found) != (statuses.get("closed") == "masked")


def test_faults_56_58_60_61_are_quarantined_by_name(tmp_path: Path, opened: list[Dataset]) -> None:
    """What a header gives away is found at indexing: shard, key, member and offset stand in the quarantine."""
    attacks = {
        "empty": (b"", "member_empty"),
        "magic": (b"not an image", "image_unknown"),
        "huge": (huge_header("JPEG"), "image_too_large"),
        "bomb": (png_bomb(b"zTXt"), "png_bomb"),
        "scans": (scans_jpeg(600), "jpeg_scans"),
    }
    samples = [photo_sample(key, data) for key, (data, _) in attacks.items()]
    dataset = make_dataset(tmp_path, [*samples, good("z", 1)])
    opened.append(dataset)
    found = {finding["key"]: finding for finding in dataset.quarantine()}
    assert {key: finding["reason"] for key, finding in found.items()} == {k: why for k, (_, why) in attacks.items()}
    assert all(finding["member"] == f"{key}.jpg" and finding["offset"] > 0 for key, finding in found.items())
    assert dataset.samples == 1


def test_a_filler_has_one_attended_token(tmp_path: Path, opened: list[Dataset]) -> None:
    """A last step is completed; fillers have no key, no crop and nothing to learn."""
    dataset = make_dataset(tmp_path, [good("a", 1), good("b", 2), good("c", 3)])
    opened.append(dataset)
    made = run_at(dataset, 0)
    assert [row.status for row in made.rows] == ["ok", "ok", "ok", "filler"]
    assert made.tensors["attention_mask"][3].sum() == 1
    assert made.labels(3).size == 0
    assert made.rows[3].key == ""


@every_layout
def test_a_micro_batch_of_fillers_repeats_the_steps_first_good_row(
    tmp_path: Path, layout: str, opened: list[Dataset]
) -> None:
    """The last filler gives way to the first row of the step, in canonical order, with its crops and labels."""
    dataset = make_dataset(tmp_path, [good("long", 9)], layout=layout)
    opened.append(dataset)
    frames = [run_at(dataset, 0, micro=micro, size=2) for micro in range(2)]
    first, second = sorted(frames, key=lambda made: made.rows[0].status == "ok", reverse=True)
    assert [row.status for row in first.rows] == ["ok", "filler"]
    assert [row.status for row in second.rows] == ["filler", "repeated"]
    info = second.rows[1]
    assert (info.key, info.replaces) == ("long", None)
    assert "filler" in info.reason
    assert np.array_equal(second.labels(1), first.labels(0))
    assert np.array_equal(second.crops(1), first.crops(0))
    assert second.header.supervised_tokens == 0
    assert second.header.step_supervised_tokens == first.header.supervised_tokens


@every_layout
def test_a_micro_batch_of_bad_samples_repeats_a_good_row_over_its_first(
    tmp_path: Path, layout: str, opened: list[Dataset]
) -> None:
    """Reason and `replaces` name the sample that it stands in for; spares that are bad are passed over."""
    samples = [bad("x1", 1), bad("x2", 2), bad("x3", 3), good("fine", 0)]
    dataset = make_dataset(tmp_path, samples, layout=layout)
    opened.append(dataset)
    seen = []
    for micro in range(4):
        made = run_at(dataset, 0, micro=micro, size=1)
        (row,) = made.rows
        seen.append((row.status, row.key, row.replaces))
        assert made.labels(0).size > 0
        if row.status == "repeated":
            assert row.replaces is not None
            assert f"sample {row.replaces[1]}, member {row.replaces[1]}.jpg @ " in row.reason
            assert row.reason.endswith("; this row was repeated instead")
            assert made.header.supervised_tokens == 0
    assert sorted(seen, key=str) == sorted(
        [("ok", "fine", None)] + [("repeated", "fine", ("s-000.tar", f"x{n}")) for n in (1, 2, 3)], key=str
    )


@every_layout
def test_the_first_masked_row_gives_way_and_the_others_stay_masked(
    tmp_path: Path, layout: str, opened: list[Dataset]
) -> None:
    """In a micro-batch of several bad rows only one is replaced; shapes follow the row that came in."""
    samples = [bad("x1", 1), bad("x2", 2), good("g1", 12), good("g2", 13)]
    dataset = make_dataset(tmp_path, samples, layout=layout)
    opened.append(dataset)
    job = dataset.job(0, 0, 0, 0, 1, 4)
    where = {row.offset: row for row in job.rows if row is not None}
    x1, x2 = (where[offset] for offset in sorted(where)[:2])
    made = run_job(dataset, replace(job, rows=(x1, x2)))
    assert [(row.status, row.key) for row in made.rows] == [("repeated", "g2"), ("masked", "x2")]
    assert (made.crops(1) == 128).all()
    assert made.crops(0).std() > 1


@every_layout
def test_fault_79_a_step_without_any_good_row_stays_masked(tmp_path: Path, layout: str, opened: list[Dataset]) -> None:
    """Nothing is invented and nothing loops: each row is counted as masked."""
    dataset = make_dataset(tmp_path, [bad(f"x{n}", n) for n in range(4)], layout=layout)
    opened.append(dataset)
    made = run_at(dataset, 0)
    assert [row.status for row in made.rows] == ["masked"] * 4
    assert made.header.supervised_tokens == 0
    assert (made.tensors["pixel_values"] == 128).all()


def test_fault_78_a_sample_without_a_supervised_token_is_quarantined(tmp_path: Path, opened: list[Dataset]) -> None:
    """Cut so short that no answer is left, it is bad rather than empty."""
    long_question = ("q", {"json": chat(("word " * 400, "Yes."))})
    dataset = make_dataset(tmp_path, [long_question, text("t")], max_length=64)
    opened.append(dataset)
    assert [finding["key"] for finding in dataset.quarantine()] == ["q"]


@every_layout
def test_fault_62_a_condemned_sample_is_masked_unseen(
    tmp_path: Path, layout: str, opened: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its decoder is not called again, in its own row or as a spare; the reason is the engine's."""
    dataset = make_dataset(tmp_path, [good("a", 9), good("b", 2)], global_batch_size=2, layout=layout)
    opened.append(dataset)
    job = dataset.job(0, 0, 0, 0, 1, 1)
    (row,) = job.rows
    assert row is not None
    decoded: list[int] = []

    def watched(data: memoryview, header: Header, *options: Any) -> Decoded:
        decoded.append(header.width)
        return decode(data, header, *options)

    monkeypatch.setattr(DECODE, watched)
    made = run_job(dataset, replace(job, condemned={row.digest: "the decoder crashed twice (SIGSEGV)"}))
    assert [(info.status, info.key) for info in made.rows] == [("repeated", "b")]
    assert "sample a @ " in made.rows[0].reason
    assert "the decoder crashed twice (SIGSEGV)" in made.rows[0].reason
    assert decoded == [62]


def test_on_bad_sample_fail_raises_what_would_have_been_masked(tmp_path: Path, opened: list[Dataset]) -> None:
    """Where the run is to fail, it fails with the whole place of the fault."""
    dataset = make_dataset(tmp_path, [good("a", 1), bad("broken")], on_bad_sample="fail", global_batch_size=2)
    opened.append(dataset)
    with pytest.raises(SampleError, match=r"shard s-000.tar, sample broken, member broken.jpg @ \d+: JPEG") as caught:
        run_at(dataset, 0, size=2)
    assert caught.value.reason == "jpeg_corrupt"


@every_layout
def test_fault_40_changed_bytes_are_an_error_never_a_mask(tmp_path: Path, layout: str, opened: list[Dataset]) -> None:
    """A shard rewritten at the same size is noticed, naming it, as `data_changed`."""
    dataset = make_dataset(tmp_path, [good("a", 1), good("b", 2), good("c", 3), good("d", 4)], layout=layout)
    opened.append(dataset)
    shard = tmp_path / "s-000.tar"
    data = bytearray(shard.read_bytes())
    data[data.index(b"\xff\xda") + 20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataChangedError, match=r"shard s-000\.tar"):
        run_at(dataset, 0)


@every_layout
def test_fault_38_a_shard_that_is_gone_is_retryable_and_comes_back(
    tmp_path: Path, layout: str, opened: list[Dataset]
) -> None:
    """A missing file is no reason to mask; once it is back the same assembler serves it."""
    dataset = make_dataset(tmp_path, [good("a", 1), good("b", 2), good("c", 3), good("d", 4)], layout=layout)
    opened.append(dataset)
    shard, away = tmp_path / "s-000.tar", tmp_path / "away"
    expected = run_at(dataset, 0).frame
    shard.rename(away)
    assembler, job = dataset.assembler(), dataset.job(0, 0, 0, 0, 1, 4)
    with pytest.raises(ReadError, match=r"s-000\.tar") as caught:
        run_job(dataset, job, assembler)
    assert caught.value.retryable
    away.rename(shard)
    assert run_job(dataset, job, assembler).frame == expected
    assembler.close()


@every_layout
def test_fault_54_an_io_error_is_retryable_and_the_shard_is_opened_anew(
    tmp_path: Path, layout: str, opened: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO masks nothing, even beside a row that is masked; the descriptor that failed is not used again."""
    dataset = make_dataset(tmp_path, [good("a", 1), bad("b", 2), good("c", 3), good("d", 4)], layout=layout)
    opened.append(dataset)
    assembler, job = dataset.assembler(), dataset.job(0, 0, 0, 0, 1, 4)
    expected = run_job(dataset, job, assembler).frame
    pread = os.pread
    failed: list[int] = []

    def fail_once(file: int, nbytes: int, offset: int) -> bytes:
        if not failed:
            failed.append(file)
            raise OSError(errno.EIO, "Input/output error")
        return pread(file, nbytes, offset)

    monkeypatch.setattr(os, "pread", fail_once)
    with pytest.raises(ReadError, match=r"s-000\.tar.*Input/output error") as caught:
        run_job(dataset, job, assembler)
    assert caught.value.retryable
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(failed[0])
    assert run_job(dataset, job, assembler).frame == expected
    assembler.close()


@every_layout
def test_a_stale_cost_is_an_error_that_names_the_sample(tmp_path: Path, layout: str, opened: list[Dataset]) -> None:
    """Right bytes with a wrong cost mean an index of another recipe: nothing is masked for that."""
    dataset = make_dataset(tmp_path, [good("a", 1), good("b", 2), good("c", 3), good("d", 4)], layout=layout)
    opened.append(dataset)
    job = dataset.job(0, 0, 0, 0, 1, 4)
    third = job.row_at(2)
    stale = rf"s-000\.tar, sample @ {third.offset}: the index is stale"
    for number, name in enumerate(third.size._fields):
        wrong = third.size._replace(**{name: third.size[number] + 1})
        rows = (*job.rows[:2], third._replace(size=wrong), job.rows[3])
        with pytest.raises(OwlStreamError, match=stale) as caught:
            run_job(dataset, replace(job, rows=rows))
        assert caught.value.code == "internal"


def test_a_sample_that_cannot_be_read_any_more_is_a_stale_index(tmp_path: Path, opened: list[Dataset]) -> None:
    """Bytes that passed when they were indexed cannot have become a bad record; the recipe must differ."""
    dataset = make_dataset(tmp_path, [good("a", 1), good("b", 2), good("c", 3), good("d", 4)])
    opened.append(dataset)
    factory = dataset.assembler_factory
    other = Assembler(replace(factory.recipe, max_image_pixels=10), factory.tokenizer, factory.shards)
    with pytest.raises(OwlStreamError, match="the index is stale: expected a good sample, got image_too_large"):
        run_job(dataset, dataset.job(0, 0, 0, 0, 1, 4), other)
    other.close()


@every_layout
def test_a_batch_that_breaks_its_contract_is_never_written(
    tmp_path: Path, layout: str, opened: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check reads the very tensors that would be sent; no frame is placed after it fails."""
    dataset = make_dataset(tmp_path, [good("a", 1), good("b", 2), good("c", 3), good("d", 4)], layout=layout)
    opened.append(dataset)
    made = get_layout(dataset.layout.name)
    collate = made.collate

    def wrong(self: object, rows: Any, pad_id: int, out: Any) -> None:
        collate(self, rows, pad_id, out)  # type: ignore[arg-type] # the layout itself
        if layout == QWEN:
            out["position_ids"][:, 2] += 1
        else:
            out["media_offset"][2, :, 1] -= 1

    monkeypatch.setattr(made, "collate", wrong)
    job = dataset.job(0, 0, 0, 0, 1, 4)
    buffer, assembler = bytearray(dataset.capacity(job)), dataset.assembler()
    with pytest.raises(ContractError):
        assembler.assemble(job, memoryview(buffer))
    assert buffer[0] == 0
    assert b"fingerprint" not in buffer
    assembler.close()


def test_a_failing_assembly_lets_go_of_the_buffer(tmp_path: Path, opened: list[Dataset]) -> None:
    """Its owner can release the memory while the error is still on its way, and the error arrives unchanged."""
    dataset = make_dataset(tmp_path, [good("a", 1), bad("b")], on_bad_sample="fail", global_batch_size=2)
    opened.append(dataset)
    job, assembler = dataset.job(0, 0, 0, 0, 1, 2), dataset.assembler()
    memory = bytearray(dataset.capacity(job) + 8)
    with pytest.raises(SampleError) as caught, memoryview(memory) as whole, whole[8:] as buffer:
        assembler.assemble(job, buffer)
    memory.clear()  # BufferError, if the error that is still held held a view
    assert caught.value.key == "b"
    assembler.close()


def test_memory_that_runs_out_while_reading_is_nobodys_fault(
    tmp_path: Path, opened: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MemoryError outside of decoding is retryable and masks nothing."""
    dataset = make_dataset(tmp_path, [good("a", 1)], global_batch_size=1)
    opened.append(dataset)

    def exhausted(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ShardFiles, "read", exhausted)
    with pytest.raises(WorkerError, match="not enough memory") as caught:
        run_at(dataset, 0, size=1)
    assert caught.value.retryable


def test_fault_131_memory_that_runs_out_while_decoding_masks_where_there_is_nobody_to_ask(
    tmp_path: Path, opened: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under limits it is the engine's matter; without, the second time decides, and memory was given back before."""
    dataset = make_dataset(tmp_path, [good("a", 1), good("b", 2)], global_batch_size=2)
    opened.append(dataset)
    job, assembler, tries = dataset.job(0, 0, 0, 0, 1, 2), dataset.assembler(), 0
    buffer = memoryview(bytearray(dataset.capacity(job)))

    def exhausted(*args: object) -> None:
        nonlocal tries
        tries += 1
        raise MemoryError

    monkeypatch.setattr(DECODE, exhausted)
    with pytest.raises(OutOfMemoryError):
        assembler.assemble(job, buffer, limits=SampleLimits(1000, 1000))
    assert tries == 1
    buffer.release()  # BufferError, if the error that is still held held a view
    made = run_job(dataset, job, assembler)
    assert [row.status for row in made.rows] == ["masked"] * 2
    assert NO_MEMORY in made.rows[0].reason
    assert tries == 5
    assembler.close()


def test_progress_names_the_sample_at_work(tmp_path: Path, opened: list[Dataset]) -> None:
    """A crash can be blamed on a row or a spare; between samples and after the last nobody is blamed."""
    dataset = make_dataset(tmp_path, [bad("x", 1), good("a", 9)], global_batch_size=2)
    opened.append(dataset)
    job = dataset.job(0, 0, 1, 0, 1, 1)
    seen: list[int] = []
    made = run_job(dataset, job, progress=seen.append)
    assert made.rows[0].status == "repeated"
    assert seen == [0, -1, 0, 1, 1, -1, -1]  # read, collate, draw; read and draw the spare; collate anew, close
    assert job.row_at(0) == job.rows[0]
    assert job.row_at(1) == job.spares[0]


def test_a_cpu_budget_is_set_for_each_sample_and_lifted_after(
    tmp_path: Path, opened: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's limit stands a little above what was used so far, and only while a sample is at work."""
    dataset = make_dataset(tmp_path, [good("a", 1), good("b", 2)], global_batch_size=2)
    opened.append(dataset)
    before = resource.getrlimit(resource.RLIMIT_CPU)
    limits: list[float] = []

    def watched(*args: Any) -> Any:
        limits.append(resource.getrlimit(resource.RLIMIT_CPU)[0] - time.process_time())
        return decode(*args)

    monkeypatch.setattr(DECODE, watched)
    job, assembler = dataset.job(0, 0, 0, 0, 1, 2), dataset.assembler()
    buffer = memoryview(bytearray(dataset.capacity(job)))
    assembler.assemble(job, buffer, limits=SampleLimits(1000, 1000))
    assert len(limits) == 2
    assert all(900 < left <= 1001 for left in limits)
    assert resource.getrlimit(resource.RLIMIT_CPU) == before
    limits.clear()
    assembler.assemble(job, buffer)
    assert len(limits) == 2
    assert not any(900 < left <= 1001 for left in limits)
    assembler.close()


def test_few_shards_are_held_open_at_a_time(tmp_path: Path, opened: list[Dataset]) -> None:
    """However many shards there are, an assembler holds a bounded number of descriptors and still reads them all."""
    shards = MAX_OPEN_SHARDS + 6
    dataset = make_dataset(tmp_path, [[good(f"k{n}", n)] for n in range(shards)], global_batch_size=shards)
    opened.append(dataset)
    assembler = dataset.assembler()
    made = run_job(dataset, dataset.job(0, 0, 0, 0, 1, shards), assembler)
    assert {row.status for row in made.rows} == {"ok"}
    assert open_below(tmp_path, ".tar") == MAX_OPEN_SHARDS
    assembler.close()
    assert open_below(tmp_path, ".tar") == 0


@every_layout
def test_one_sample_alone_is_a_job(tmp_path: Path, layout: str, opened: list[Dataset]) -> None:
    """A suspect is tried without neighbours and without spares: it is masked, and nothing is repeated."""
    dataset = make_dataset(tmp_path, [good("a", 1), bad("x"), good("c", 2), good("d", 3)], layout=layout)
    opened.append(dataset)
    job = dataset.job(0, 0, 0, 0, 1, 4)
    suspect = sorted(job.spares, key=lambda row: row.offset)[1]
    made = run_job(dataset, replace(job, rows=(suspect,), spares=()))
    assert [(row.key, row.status) for row in made.rows] == [("x", "masked")]


def test_the_real_samples_with_the_real_tokenizer(shared_data: Path, opened: list[Dataset], tmp_path: Path) -> None:
    """One epoch of real photographs: every key once, every batch within its contract and its capacity."""
    dataset = reopen(
        shared_data,
        index_dir=tmp_path,
        shards=("real/real-00000.tar",),
        tokenizer="qwen2-tokenizer.json",
        image_size=112,
        max_length=4096,
        global_batch_size=8,
        shuffle="full",
    )
    opened.append(dataset)
    assembler, keys = dataset.assembler(), []
    for step in range(dataset.steps_per_epoch):
        made = run_job(dataset, dataset.job(0, step, 0, 0, 1, 8), assembler)
        keys += [row.key for row in made.rows if row.status == "ok"]
        assert made.header.supervised_tokens == made.header.step_supervised_tokens
    assembler.close()
    assert len(keys) == len(set(keys)) == dataset.samples > 20
