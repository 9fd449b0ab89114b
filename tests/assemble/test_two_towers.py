"""A batch whose pictures go into two tensors: each row's part of both is drawn, masked, repeated and cached alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from owl_stream.assemble import Assembler, CacheSettings, Dataset, Job, JobRow
from owl_stream.assemble.batch import MASKED_LEVEL
from owl_stream.layouts import registry
from tests.assemble.two_towers import MEDIUM_TOKEN, NAME, TwoTowers
from tests.support.assembly import Made, make_dataset, run_at, run_job
from tests.support.images import damaged_jpeg, released
from tests.support.tars import Sample, chat, picture

SIDE = 28
DRAWN = ("images", "frames")
Pictures = dict[str, NDArray[np.uint8]]


@pytest.fixture(autouse=True, scope="module")
def _two_towers() -> Iterator[None]:
    """The layout is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._LAYOUTS, NAME, TwoTowers)
        yield


@dataclass(frozen=True)
class Clip:
    """A sample: its images and the frames of its one video, as JPEGs; an answer that makes its row that long."""

    key: str
    images: tuple[bytes, ...] = ()
    frames: tuple[bytes, ...] = ()
    words: int = 1

    @property
    def sample(self) -> Sample:
        """As it lies in a shard."""
        stills = {f"i{n}.jpg": data for n, data in enumerate(self.images)}
        frames = {f"v{n}.jpg": data for n, data in enumerate(self.frames)}
        media: dict[str, Any] = {"images": [f"{self.key}.{name}" for name in stills]} if stills else {}
        if frames:
            media["videos"] = [[f"{self.key}.{name}" for name in frames]]
        # The video stands first, so that pictures do not come in the order of the tensors.
        question = "<|video|>" * bool(frames) + "<|image|>" * len(stills) + "What?"
        return self.key, {"json": chat((question, "owl " * self.words), **media), **stills, **frames}

    @property
    def drawn(self) -> Pictures:
        """What is to stand in its part of each tensor, by Pillow."""
        stills = [resized(data, Resampling.BICUBIC).transpose(2, 0, 1) for data in self.images]
        frames = [resized(data, Resampling.BILINEAR) for data in self.frames]
        mirrored = [each for frame in frames for each in (frame, frame[:, ::-1])]
        return {name: np.stack(parts) for name, parts in zip(DRAWN, (stills, mirrored), strict=True) if parts}


def resized(data: bytes, filter: Resampling) -> NDArray[np.uint8]:
    """A picture as the resizer of the release would make it."""
    return np.asarray(Image.fromarray(released(data)).resize((SIDE, SIDE), filter))


def stills(count: int, seed: int, size: tuple[int, int] = (60, 40)) -> tuple[bytes, ...]:
    """Pictures that decode."""
    return tuple(picture(*size, seed + number) for number in range(count))


def harm(pictures: tuple[bytes, ...], at: int) -> tuple[bytes, ...]:
    """The same pictures, one of which decodes no more; its header is as it was."""
    return (*pictures[:at], damaged_jpeg(picture(160, 120, at)), *pictures[at + 1 :])


def made_of(directory: Path, *clips: Clip, **changes: Any) -> Dataset:
    """A dataset of these samples, all kinds in one step, with Pillow's own pixels."""
    return make_dataset(
        directory,
        [clip.sample for clip in clips],
        **{"layout": NAME, "resize": "pillow", "modality": "off", "global_batch_size": len(clips), **changes},
    )


def parts(made: Made) -> dict[str, Pictures]:
    """Each row's part of the drawn tensors, by its key; tensors that it has no part of are left out."""
    cut: dict[str, Pictures] = {row.key: {} for row in made.rows}
    for tensor, counts in zip(DRAWN, made.tensors["media"].T, strict=True):
        first = 0
        for row, count in zip(made.rows, counts.tolist(), strict=True):
            if count:
                cut[row.key][tensor] = made.tensors[tensor][first : first + count]
            first += count
        assert first == len(made.tensors.get(tensor, ()))
    return cut


def equal(one: Pictures, other: Pictures) -> bool:
    """Whether both have the same tensors with the same pixels."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def grey(pictures: Pictures) -> bool:
    """Whether there are pixels, and all are what a masked row has."""
    return bool(pictures) and all((block == MASKED_LEVEL).all() for block in pictures.values())


BOTH = Clip("both", stills(2, 10), stills(3, 20), 9)
STILL = Clip("still", stills(1, 30), (), 5)
MOVING = Clip("moving", (), stills(2, 40), 3)
WORDS = Clip("words")


def test_rows_of_all_kinds_are_drawn_into_both_tensors(tmp_path: Path, opened: list[Dataset]) -> None:
    """Each picture in its own row's part of its own tensor, by its own filter; the header adds up both towers."""
    clips = {clip.key: clip for clip in (MOVING, BOTH, WORDS, STILL)}
    opened.append(made_of(tmp_path, *clips.values()))
    made = run_at(opened[0], 0)
    assert [spec.name for spec in made.header.tensors][-2:] == list(DRAWN)
    assert made.tensors["images"].shape == (3, 3, SIDE, SIDE)
    assert made.tensors["frames"].shape == (10, SIDE, SIDE, 3)
    assert {row.key: row.status for row in made.rows} == dict.fromkeys(clips, "ok")
    for key, pictures in parts(made).items():
        assert equal(pictures, clips[key].drawn), key
    longest = made.tensors["input_ids"].shape[1]
    assert made.header.lengths == {"B": 4, "L": longest, "I": 3, "F": 10}
    assert (made.header.units, made.header.vision_tokens) == (3 + 2, 3 * 4 + 10)
    assert (made.assembled.report.rows_with_media, made.assembled.report.units) == (3, 5)
    assert np.count_nonzero(made.tensors["input_ids"][:, :3] == MEDIUM_TOKEN) == 5


@pytest.mark.parametrize(
    ("clip", "tensors"),
    [(WORDS, ()), (STILL, ("images",)), (MOVING, ("frames",)), (BOTH, DRAWN)],
    ids=lambda value: value.key if isinstance(value, Clip) else "",
)
def test_a_tensor_without_pictures_is_left_out(
    tmp_path: Path, opened: list[Dataset], clip: Clip, tensors: tuple[str, ...]
) -> None:
    """Each of the two alone, both, and none: a frame has what its rows have."""
    opened.append(made_of(tmp_path, clip))
    made = run_at(opened[0], 0, size=1)
    assert tuple(name for name in DRAWN if name in made.tensors) == tensors
    assert equal(parts(made)[clip.key], clip.drawn)


def test_pure_steps_call_the_towers_that_all_their_rows_call(tmp_path: Path, opened: list[Dataset]) -> None:
    """Samples of four kinds make four pools, and no step has rows of two."""
    kinds = (WORDS, STILL, MOVING, BOTH)
    clips = [replace(clip, key=f"{clip.key}{n}") for n in range(3) for clip in kinds]
    opened.append(made_of(tmp_path, *clips, modality="pure", global_batch_size=2))
    seen = []
    for step in range(opened[0].steps_per_epoch):
        made = run_at(opened[0], step, size=2)
        rows = {row.key.rstrip("012") for row in made.rows if row.status == "ok"}
        pool = opened[0].describe_step(0, step)["pool"]
        assert rows == {{"text": "words", "image": "still", "video": "moving", "image_video": "both"}[pool]}
        seen.append(pool)
    assert sorted(seen) == sorted(["text", "image", "video", "image_video"] * 2)


@pytest.mark.parametrize(
    "broken",
    [replace(BOTH, images=harm(BOTH.images, 1)), replace(BOTH, frames=harm(BOTH.frames, 2))],
    ids=["an image", "a frame"],
)
def test_a_bad_picture_masks_its_rows_part_of_both_tensors(tmp_path: Path, opened: list[Dataset], broken: Clip) -> None:
    """Mid-grey in either, whichever of the two the picture was for; every other row is bit for bit what it was."""
    sound, harmed = (
        made_of(tmp_path / name, MOVING, clip, STILL, WORDS) for name, clip in (("s", BOTH), ("h", broken))
    )
    opened += [sound, harmed]
    before, after = run_at(sound, 0), run_at(harmed, 0)
    assert {row.key: row.status for row in after.rows} == {
        "both": "masked", "moving": "ok", "still": "ok", "words": "ok",
    }  # fmt: skip
    was, now = parts(before), parts(after)
    assert set(now["both"]) == set(DRAWN)
    assert grey(now["both"])
    assert all(equal(was[key], now[key]) for key in ("moving", "still", "words"))
    for name in ("input_ids", "attention_mask", "media"):
        assert np.array_equal(before.tensors[name], after.tensors[name])
    row = [info.key for info in after.rows].index("both")
    assert after.labels(row).size == 0 < before.labels(row).size
    assert after.header.lengths == before.header.lengths


@pytest.mark.parametrize("spare", [BOTH, STILL, MOVING, WORDS], ids=lambda clip: clip.key)
@pytest.mark.parametrize("kind", ["frame", "image", "both"])
def test_a_spare_is_repeated_with_its_part_of_both_tensors(
    tmp_path: Path, opened: list[Dataset], spare: Clip, kind: str
) -> None:
    """Over a masked row of other tensors: the frame has the spare's own, and those of the other masked row in grey."""
    images, frames = harm(stills(2, 50), 0), harm(stills(1, 60), 0)
    pictures: dict[str, Any] = {
        "frame": {"frames": frames}, "image": {"images": images}, "both": {"images": images, "frames": frames}
    }[kind]  # fmt: skip
    bad = [Clip(f"bad{n}", words=20 + n, **pictures) for n in range(2)]
    opened.append(made_of(tmp_path, *bad, spare))
    job = opened[0].job(0, 0, 0, 0, 1, 3)
    by_offset = sorted((row for row in job.rows if row is not None), key=lambda row: row.offset)
    made = run_job(opened[0], replace(job, rows=tuple(by_offset[:2])))
    assert [(row.key, row.status) for row in made.rows] == [(spare.key, "repeated"), ("bad1", "masked")]
    cut = parts(made)
    assert equal(cut[spare.key], spare.drawn)
    assert grey(cut["bad1"])
    assert made.header.supervised_tokens == 0 < made.labels(0).size


def test_a_micro_batch_of_fillers_repeats_a_row_of_both_tensors(tmp_path: Path, opened: list[Dataset]) -> None:
    """A frame that would have had no drawn tensor has both."""
    opened.append(made_of(tmp_path, BOTH, global_batch_size=4))
    frames = [run_at(opened[0], 0, micro=micro, size=2) for micro in range(2)]
    (made,) = [each for each in frames if each.rows[0].status == "filler"]
    assert [row.status for row in made.rows] == ["filler", "repeated"]
    assert equal(parts(made)["both"], BOTH.drawn)


def cached(dataset: Dataset, directory: Path) -> Assembler:
    """An assembler of the data set that keeps pixels."""
    return replace(dataset.assembler_factory, cache=CacheSettings(directory, 1 << 30))()


def test_the_cache_keeps_both_tensors_of_a_row(tmp_path: Path, opened: list[Dataset]) -> None:
    """Cold and warm frames are equal bytes; one hit a row, a file for each tensor, and one file gone is a miss."""
    opened.append(made_of(tmp_path / "data", MOVING, BOTH, WORDS, STILL))
    job, kept = opened[0].job(0, 0, 0, 0, 1, 4), tmp_path / "kept"
    expected, counts = run_job(opened[0], job).frame, []
    for keep in (4, 4, 3, 4):
        files = sorted(kept.rglob("*.pixels"))
        for path in files[keep:]:
            path.unlink()
        assembler = cached(opened[0], kept)
        made = run_job(opened[0], job, assembler)
        assembler.close()
        assert made.frame == expected
        counts.append((len(files), made.assembled.cache_hits, made.assembled.cache_misses))
    assert counts == [(0, 0, 3), (4, 3, 0), (4, 2, 1), (4, 3, 0)]


def test_a_repeated_spare_comes_from_the_cache_too(tmp_path: Path, opened: list[Dataset]) -> None:
    """Its pixels of both tensors are found by whoever repeats it."""
    bad = Clip("bad", harm(stills(1, 50), 0), (), 30)
    opened.append(made_of(tmp_path / "data", bad, BOTH))
    job = opened[0].job(0, 0, 0, 0, 1, 2)
    alone = replace(job, rows=(min(job.spares, key=lambda row: row.offset),))
    expected = run_job(opened[0], alone).frame
    assembler = cached(opened[0], tmp_path / "kept")
    for hits in (0, 1):
        made = run_job(opened[0], alone, assembler)
        assert (made.frame, made.assembled.cache_hits) == (expected, hits)
        assert equal(parts(made)["both"], BOTH.drawn)
    assembler.close()


@dataclass(frozen=True)
class Parts:
    """A dataset of good and bad samples of all kinds, and assemblers of it without a cache and with one."""

    dataset: Dataset
    bare: Assembler
    caching: Assembler
    clips: dict[int, Clip]
    rows: tuple[JobRow, ...] = field(default=())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """Nine samples, by the place of their offset in the shard."""
    clips = [
        BOTH, STILL, MOVING, WORDS,
        Clip("large", stills(5, 70), stills(6, 80), 40),
        Clip("bad image", harm(stills(3, 90), 2), (), 2),
        Clip("bad frame", (), harm(stills(4, 100), 1), 7),
        Clip("bad both", harm(stills(1, 110), 0), harm(stills(2, 120), 1), 60),
        Clip("bad after", stills(2, 130), harm(stills(2, 140), 0), 1),
    ]  # fmt: skip
    dataset = made_of(tmp_path_factory.mktemp("many"), *clips)
    bare, caching = dataset.assembler(), cached(dataset, tmp_path_factory.mktemp("kept"))
    rows = dataset.job(0, 0, 0, 0, 1, len(clips)).spares
    offsets = sorted(row.offset for row in rows)
    by_digest = {row.digest: clips[offsets.index(row.offset)] for row in rows}
    yield Parts(dataset, bare, caching, by_digest, rows)
    bare.close()
    caching.close()
    dataset.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_and_spares_make_a_frame_that_fits_and_holds_them(many: Parts, data: st.DataObject) -> None:
    """Within its capacity, the same bytes with a cache and without; a part of either tensor is right or grey."""
    some_rows = st.lists(st.sampled_from(many.rows), max_size=4)
    chosen: list[JobRow | None] = [*data.draw(some_rows), *[None] * data.draw(st.integers(0, 2))] or [None]
    condemned = {row.digest: "died" for row in data.draw(some_rows)}
    spares = tuple(data.draw(some_rows))
    job = Job("f" * 32, 0, 0, 0, 0, 1, tuple(chosen), spares, 1, condemned)
    made = run_job(many.dataset, job, many.bare)
    assert made.assembled.start + made.assembled.nbytes <= many.dataset.capacity(job)
    assert run_job(many.dataset, job, many.caching, fill=0x17).frame == made.frame
    drawn_by_key = {clip.key: clip.drawn for clip in many.clips.values() if not clip.key.startswith("bad")}
    first = dict.fromkeys(DRAWN, 0)
    for number, row in enumerate(made.rows):
        part = {}
        for name, count in zip(DRAWN, made.tensors["media"][number].tolist(), strict=True):
            if count:
                part[name] = made.tensors[name][first[name] : first[name] + count]
            first[name] += count
        if row.status == "masked":
            assert grey(part) or not part
            assert made.labels(number).size == 0
        elif row.status == "filler":
            assert not part
        else:
            assert equal(part, drawn_by_key[row.key])
    good = [spare for spare in spares if not many.clips[spare.digest].key.startswith("bad")]
    if not any(row.status == "ok" for row in made.rows):
        repeated = any(spare.digest not in condemned for spare in good)
        assert [row.status for row in made.rows].count("repeated") == repeated
