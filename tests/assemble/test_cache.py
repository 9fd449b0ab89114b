"""The pixel cache: it never changes a frame, never fails, and what is damaged or half written is a miss."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from owl_stream.assemble import Assembler, CacheSettings, Dataset
from owl_stream.assemble.cache import SHELVES, PixelCache, _key
from tests.support.assembly import make_dataset, run_job
from tests.support.images import damaged_jpeg, suspicious_jpeg
from tests.support.layouts import QWEN, every_layout
from tests.support.server import ROOT
from tests.support.tars import Sample, chat, picture

SHAPE = (2, 3, 28, 28)
NBYTES = 2 * 3 * 28 * 28


def key_of(number: int) -> bytes:
    """The key of a sample's pixels."""
    return number.to_bytes(16, "little")


def file_of(directory: Path, number: int, tensor: str = "pixel_values") -> Path:
    """Where a sample's pixels of a tensor lie."""
    return PixelCache(CacheSettings(directory, 1))._path(_key(key_of(number), tensor))


def on_one_shelf() -> Iterator[int]:
    """Numbers of samples whose files lie on the shelf of the first one."""
    shelf = file_of(Path(), 0).parent
    return (number for number in count() if file_of(Path(), number).parent == shelf)


Pixels = dict[str, NDArray[np.uint8]]


def pixels_of(number: int) -> Pixels:
    """Pixels that say which key they belong to."""
    return {"pixel_values": np.random.default_rng(number).integers(0, 256, SHAPE, dtype=np.uint8)}


def room() -> Pixels:
    """Where pixels are read into."""
    return {"pixel_values": np.zeros(SHAPE, np.uint8)}


def same(one: Pixels, other: Pixels) -> bool:
    """Whether pixels are equal, tensor by tensor."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def files(directory: Path) -> list[Path]:
    """What the cache keeps."""
    return sorted(directory.rglob("*.pixels"))


@pytest.fixture
def cache(tmp_path: Path) -> PixelCache:
    """A cache with room for everything."""
    return PixelCache(CacheSettings(tmp_path / "kept", 1 << 30))


def test_what_is_written_is_read_by_anybody(cache: PixelCache, tmp_path: Path) -> None:
    """Another process's cache over the same directory finds the same pixels; an unknown key is a miss."""
    out = room()
    assert not cache.read(key_of(1), out)
    cache.write(key_of(1), pixels_of(1))
    other = PixelCache(CacheSettings(tmp_path / "kept", 1 << 30))
    assert other.read(key_of(1), out)
    assert same(out, pixels_of(1))
    assert not other.read(key_of(2), out)
    assert (cache.misses, other.hits, other.misses) == (1, 1, 1)


def test_every_damaged_byte_is_a_miss_and_the_file_goes(cache: PixelCache, tmp_path: Path) -> None:
    """A flipped bit in the head or the pixels, a file cut short, one that grew and one under another key."""
    out = room()
    cache.write(key_of(0), pixels_of(0))
    (path,) = files(tmp_path)
    assert path == file_of(tmp_path / "kept", 0)
    whole = path.read_bytes()
    flips = [bytearray(whole) for _ in range(60)]
    for number, flipped in enumerate(flips):
        flipped[number if number < 40 else -number] ^= 1 << number % 8
    for data in [*flips, whole[:-1], whole[:10], b""]:
        path.write_bytes(data)
        assert not cache.read(key_of(0), out)
        assert not path.exists()
    neighbour = next(number for number in on_one_shelf() if number)
    other = file_of(tmp_path / "kept", neighbour)
    assert other.parent == path.parent
    other.write_bytes(whole)
    assert not cache.read(key_of(neighbour), out)
    assert not other.exists()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    """Never more bytes than allowed; what is read again and again stays."""
    most = 40 * SHELVES * NBYTES
    cache = PixelCache(CacheSettings(tmp_path, most))
    out = room()
    first, *others = islice(on_one_shelf(), 200)
    favourite = key_of(first)
    cache.write(favourite, pixels_of(0))
    for number in others:
        cache.write(key_of(number), pixels_of(number))
        assert cache.read(favourite, out), number
        time.sleep(0.001)  # times of files tick more slowly than this loop
    kept = files(tmp_path)
    assert sum(path.stat().st_size for path in kept) <= most / SHELVES
    assert len(kept) > 20
    assert cache.read(key_of(others[-1]), out)
    assert not cache.read(key_of(others[0]), out)


def test_pixels_of_several_tensors_are_found_together_or_not_at_all(cache: PixelCache, tmp_path: Path) -> None:
    """One hit or miss a sample; without one of its files it is a miss, and no tensor is taken for another."""
    images, videos = pixels_of(1)["pixel_values"], pixels_of(2)["pixel_values"][:1]
    cache.write(key_of(0), {"images": images, "videos": videos})
    out = {"images": np.zeros_like(images), "videos": np.zeros_like(videos)}
    assert cache.read(key_of(0), out)
    assert same(out, {"images": images, "videos": videos})
    assert (cache.hits, cache.misses, len(files(tmp_path))) == (1, 0, 2)
    first, second = (file_of(tmp_path / "kept", 0, tensor) for tensor in ("images", "videos"))
    second.unlink()
    assert not cache.read(key_of(0), out)
    second.parent.mkdir(exist_ok=True)
    second.write_bytes(first.read_bytes())
    assert not cache.read(key_of(0), {"images": out["images"], "videos": np.zeros_like(images)})
    assert (cache.hits, cache.misses) == (1, 2)


def test_a_place_that_cannot_be_written_is_a_cache_that_misses(tmp_path: Path) -> None:
    """A file where the directory should be: no error, no pixels, and not a warning for every sample."""
    (tmp_path / "kept").write_text("not a directory")
    cache = PixelCache(CacheSettings(tmp_path / "kept", 1 << 30))
    for number in range(5):
        cache.write(key_of(number), pixels_of(number))
        assert not cache.read(key_of(number), room())


WRITER = """
import resource, signal, sys
from pathlib import Path
from owl_stream.assemble import CacheSettings
from owl_stream.assemble.cache import PixelCache
from tests.assemble.test_cache import key_of, pixels_of
directory, most, start = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if most:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
cache = PixelCache(CacheSettings(directory, 1 << 30))
print("begun", flush=True)
for number in range(start, start + 5000):
    cache.write(key_of(number), pixels_of(number))
    if most:
        break
"""


def writer(directory: Path, most: int = 0, start: int = 0) -> subprocess.Popen[bytes]:
    """Another process that fills the cache; it has begun."""
    command = [sys.executable, "-c", WRITER, str(directory), str(most), str(start)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


def test_a_killed_writer_leaves_nothing_that_is_taken_for_pixels(tmp_path: Path) -> None:
    """SIGKILL at random moments, two writers at a time over the same keys: every file is whole or is not looked at."""
    rng, out, found = random.Random(0), room(), 0
    for _ in range(8):
        pair = [writer(tmp_path), writer(tmp_path)]
        time.sleep(rng.uniform(0.0, 0.2))
        for process in pair:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    reading = PixelCache(CacheSettings(tmp_path, 1 << 30))
    number_of = {file_of(tmp_path, number): number for number in range(5000)}
    for path in files(tmp_path):
        number = number_of[path]
        assert reading.read(key_of(number), out), path
        assert same(out, pixels_of(number))
        found += 1
    assert found == reading.hits > 0


def test_a_disk_without_room_keeps_nothing_of_a_file(tmp_path: Path) -> None:
    """The write ends in the middle of the pixels, as on a full disk: the process goes on, no file is left."""
    process = writer(tmp_path, most=NBYTES // 2)
    process.communicate()
    assert process.returncode == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def mixed() -> list[Sample]:
    """Pictures, a text, a video, and one picture whose end is missing in the middle."""
    made: list[Sample] = []
    for number in range(12):
        parts = {"json": chat(("<|image|>What is it?", "An owl" + " sits" * number + "."))}
        made.append((f"p{number:02}", {**parts, "jpg": picture(60 + number, 40, number)}))
    made.append(("bad", {"json": chat(("<|image|>?", "A cat.")), "jpg": damaged_jpeg(picture(160, 120, 7))}))
    made.append(("text", {"json": chat(("Say something.", "No picture."))}))
    frames = {f"f{at}.jpg": picture(60, 44, 50 + at) for at in range(3)}
    made.append(("film", {"json": chat(("<|video|>And?", "So."), videos=[list(frames)]), **frames}))
    return made


def cached(dataset: Dataset, directory: Path) -> Assembler:
    """An assembler of the data set that keeps pixels."""
    factory = dataset.assembler_factory
    return type(factory)(factory.recipe, factory.tokenizer, factory.shards, CacheSettings(directory, 1 << 30))()


@every_layout
def test_frames_are_the_same_with_a_cache_cold_and_warm(tmp_path: Path, layout: str) -> None:
    """Byte for byte, the masked row included; the second epoch decodes nothing but what is bad."""
    (tmp_path / "data").mkdir()
    dataset = make_dataset(tmp_path / "data", mixed(), layout=layout)
    assembler = cached(dataset, tmp_path / "kept")
    counts = []
    for epoch in (0, 1, 0):
        hits = misses = 0
        for step in range(dataset.steps_per_epoch):
            job = dataset.job(epoch, step, 0, 0, 1, 4)
            bare, made = run_job(dataset, job), run_job(dataset, job, assembler)
            assert made.frame == bare.frame
            hits, misses = hits + made.assembled.cache_hits, misses + made.assembled.cache_misses
        counts.append((hits, misses))
    assert counts == [(0, 14), (13, 1), (13, 1)]
    assembler.close()
    dataset.close()


def test_a_suspicious_picture_is_counted_whenever_it_is_sent(tmp_path: Path) -> None:
    """Its pixels are not kept, so that a second epoch counts it again; those of others are."""
    (tmp_path / "data").mkdir()
    odd = suspicious_jpeg(picture(60, 40))
    samples = [("odd", {"json": chat(("<|image|>What is it?", "An owl.")), "jpg": odd}), *mixed()[:3]]
    dataset = make_dataset(tmp_path / "data", samples)
    assembler = cached(dataset, tmp_path / "kept")
    for hits in (0, 3):
        assembled = run_job(dataset, dataset.job(0, 0, 0, 0, 1, 4), assembler).assembled
        (found,) = assembled.suspicious
        assert (found.key, found.member, found.reason) == ("odd", "odd.jpg", "jpeg_suspicious")
        assert assembled.statuses == ("ok",) * 4
        assert (assembled.counts["suspicious"], assembled.cache_hits) == (1, hits)
    assembler.close()
    dataset.close()


@every_layout
def test_pixels_are_shared_by_content_and_never_across_recipes(tmp_path: Path, layout: str) -> None:
    """Other shards, names and batches with the same samples hit; another resize, cut or size misses."""
    home, kept = tmp_path / "data", tmp_path / "kept"
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    first = make_dataset(home, mixed()[:4], layout=layout, global_batch_size=4)
    run_job(first, first.job(0, 0, 0, 0, 1, 4), cached(first, kept))
    moved = make_dataset(
        tmp_path / "elsewhere", [mixed()[:1], mixed()[1:4]], layout=layout, global_batch_size=2, max_length=400
    )
    again = run_job(moved, moved.job(0, 0, 0, 0, 1, 2), cached(moved, kept))
    assert (again.assembled.cache_hits, again.assembled.cache_misses) == (2, 0)
    for settings in ({"resize": "pillow"}, {"image_size": 42}, {"cut": "off"})[: 2 if layout == QWEN else 3]:
        other = make_dataset(home, mixed()[:4], layout=layout, **settings)
        made = run_job(other, other.job(0, 0, 0, 0, 1, 4), cached(other, kept))
        assert made.frame == run_job(other, other.job(0, 0, 0, 0, 1, 4)).frame
        assert made.assembled.cache_hits == 0, settings
        other.close()
    first.close()
    moved.close()
