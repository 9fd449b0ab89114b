"""Jobs: compact, exact, and honest about how much memory their frames need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from owl_stream.assemble import Assembler, Dataset, Job, JobRow
from owl_stream.shards import RowSize
from tests.support.assembly import make_dataset, run_job
from tests.support.images import damaged_jpeg
from tests.support.layouts import OWL, QWEN
from tests.support.tars import Sample, chat, picture

LONG = "directory/" * 40 + "ünïcode"


def _samples() -> list[Sample]:
    """Rows of very different sizes, good and bad, one with a long key."""
    samples: list[Sample] = []
    for n in range(4):
        image = picture(60 + 90 * n, 200 - 40 * n, n)
        data = damaged_jpeg(image) if n % 2 else image
        key = f"{LONG}{n}" if n < 2 else f"k{n}"
        samples.append((key, {"json": chat(("<|image|>What?", "owl " * (1 + 30 * n))), "jpg": data}))
    samples += [(f"t{n}", {"json": chat(("Say.", "word " * (1 + 60 * n)))}) for n in range(2)]
    frames = {f"{n}.jpg": picture(30, 30, n) for n in range(9)}
    frames["4.jpg"] = damaged_jpeg(picture(90, 90, 4))
    video = {f"v{n}.jpg": picture(70, 50, n) for n in range(3)}
    samples.append(("video", {"json": chat(("<|video|>And?", "So."), videos=[list(video)]), **video}))
    samples.append(("many", {"json": chat(("<|image|>" * 9, "Nine.")), **frames}))
    return samples


Parts = tuple[Dataset, Assembler, tuple[JobRow, ...]]


@pytest.fixture(scope="module", params=[OWL, "owl3-241101", QWEN])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A dataset, an assembler of it, and its rows."""
    dataset = make_dataset(
        tmp_path_factory.mktemp("job"),
        _samples(),
        layout=request.param,
        modality="off",
        global_batch_size=8,
        image_size=28 if request.param == QWEN else 14,
    )
    assembler = dataset.assembler()
    yield dataset, assembler, dataset.job(0, 0, 0, 0, 1, 8).spares
    assembler.close()
    dataset.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_frame_never_exceeds_its_capacity(parts: Parts, data: st.DataObject) -> None:
    """Whatever rows, fillers, spares and condemned samples a job has, its buffer suffices, nothing before or behind."""
    dataset, assembler, rows = parts
    some_rows = st.lists(st.sampled_from(rows), max_size=4)
    chosen: list[JobRow | None] = [*data.draw(some_rows), *[None] * data.draw(st.integers(0, 2))] or [None]
    condemned = {row.digest: "died" * data.draw(st.sampled_from([1, 999])) for row in data.draw(some_rows)}
    spares = tuple(data.draw(some_rows))
    job = Job("f" * 32, 2**40, 2**40, 7, 7, 8, tuple(chosen), spares, 2**40, condemned)
    made = run_job(dataset, job, assembler)
    assert made.assembled.start + made.assembled.nbytes <= dataset.capacity(job)
    assert len(made.rows) == len(chosen)
    if not any(row.status == "ok" for row in made.rows) and any(
        spare.size.units == 0 and spare.digest not in condemned for spare in spares
    ):
        assert "repeated" in [row.status for row in made.rows]


number = st.integers(0, 2**63 - 1)
any_row = st.builds(JobRow, *[number] * 4, st.integers(0, 2**64 - 1), st.builds(RowSize, *[number] * 6))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.none() | any_row, min_size=1, max_size=5),
    spares=st.lists(any_row, max_size=5),
    digest=st.integers(0, 2**64 - 1),
    reason=st.text(max_size=20),
    fail=st.booleans(),
)
def test_a_job_survives_its_bytes(
    rows: list[JobRow | None], spares: list[JobRow], digest: int, reason: str, fail: bool
) -> None:
    """to_bytes and from_bytes are inverse, for every value that a column can hold."""
    job = Job(
        "ab" * 16,
        3,
        2**50,
        1,
        2,
        4,
        tuple(rows),
        tuple(spares),
        99,
        {digest: reason},
        "fail" if fail else "mask",
    )
    again = Job.from_bytes(job.to_bytes())
    assert again == job
    assert all(isinstance(row.size, RowSize) for row in (*again.rows, *again.spares) if row is not None)
    assert again.to_bytes() == job.to_bytes()


def test_a_job_is_compact() -> None:
    """A row takes a few dozen bytes, so that a job of a large global batch is sent in no time."""
    row = JobRow(3, 7, 2**33, 2**18, 2**63 + 5, RowSize(1234, 600, 9, 9 * 729))
    job = Job("f" * 32, 1, 1, 1, 1, 1, (row,) * 8, (row,) * 1024, 10**6)
    assert len(job.to_bytes()) < 1032 * 40


def test_capacity_is_not_wasteful(parts: Parts) -> None:
    """With one row it allows for the largest spare instead of the row, not on top of it. A step is of one kind."""
    dataset, _, all_rows = parts
    rows = [row for row in all_rows if not row.size.video_units]
    largest = max(rows, key=lambda row: row.size.vision_tokens)
    job = Job("f" * 32, 0, 0, 0, 0, 1, (largest,), tuple(rows), 1)
    extra = dataset.capacity(job) - job.payload_nbytes(dataset.layout)
    assert extra < 64 << 10
    assert dataset.capacity(replace(job, spares=())) <= dataset.capacity(job)


def test_a_job_says_where_it_is() -> None:
    """Its text is the coordinate alone, for logs and errors."""
    assert str(Job("f", 1, 2, 3, 0, 4, (), (), 0)) == "epoch 1, step 2, micro 3, rank 0 of 4"
