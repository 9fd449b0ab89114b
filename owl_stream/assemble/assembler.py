"""Assembly: a job and a buffer in, a frame in the buffer out. Lives in a worker process, one job at a time."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np

from owl_stream.assemble.batch import Batch, Blocks, Row
from owl_stream.assemble.cache import CacheSettings, PixelCache, pixels_key
from owl_stream.assemble.encode import EncodedSample, Encoder, Picture
from owl_stream.assemble.files import ShardFiles
from owl_stream.assemble.fingerprint import assembly_id, drawing_id
from owl_stream.assemble.images import Decoder
from owl_stream.assemble.job import Job, JobRow
from owl_stream.assemble.kept import KeptRows
from owl_stream.assemble.limits import (
    NO_MEMORY,
    SLACK_BYTES,
    CpuBudget,
    OutOfMemoryError,
    SampleLimits,
    Stopwatch,
    at_most_more,
    give_back_memory,
)
from owl_stream.assemble.payload import drawn_rows
from owl_stream.assemble.resizers import make_resizer
from owl_stream.assemble.tokenizer import TokenizerFile
from owl_stream.assemble.work import target_bytes
from owl_stream.errors import OwlStreamError, SampleError, WorkerError
from owl_stream.layouts import BatchReport, Visual
from owl_stream.layouts.recipe import Recipe
from owl_stream.privacy import Readers, Sources
from owl_stream.shards import Member, Quarantined, RowSize, RowTables, Shard, read_sample
from owl_stream.wire import RowInfo, Status

STAGES = ("read", "tokenise", "decode", "resize", "collate", "hash", "cache")

Progress = Callable[[int], None]
"""Told which row is worked at (behind the rows come the spares, see `Job.row_at`), and -1 when none is any more."""


@dataclass(frozen=True)
class Assembled:
    """A frame lies at `start` of the buffer, `nbytes` long. `seconds`: wall time by stage (`STAGES`).

    `tokens` are attended, `padding` is what fills the rows up to the longest. `masked`: why rows were masked.
    `tokenised`: rows whose text was worked out here, and not at indexing. `suspicious`: pictures that were decoded and
    sent, and whose decoder warned.
    """

    start: int
    nbytes: int
    statuses: tuple[Status, ...]
    seconds: Mapping[str, float]
    report: BatchReport
    tokens: int = 0
    padding: int = 0
    masked: tuple[Quarantined, ...] = ()
    cache_hits: int = 0
    cache_misses: int = 0
    tokenised: int = 0
    suspicious: tuple[Quarantined, ...] = ()

    @cached_property
    def counts(self) -> dict[str, int]:
        """What metrics add up: the contract's report, and rows by status."""
        report = self.report
        return {
            "rows_with_media": report.rows_with_media,
            "text_only_rows": report.text_only_rows,
            "units": report.units,
            "tokens": self.tokens,
            "padding": self.padding,
            "cache_hits": self.cache_hits,
            "cache_misses": self.cache_misses,
            "tokenised": self.tokenised,
            "suspicious": len(self.suspicious),
            **{f"rows_{status}": self.statuses.count(status) for status in get_args(Status)},
        }


@dataclass(frozen=True)
class AssemblerFactory:
    """What a worker process is sent to make its assembler from; picklable."""

    recipe: Recipe
    tokenizer: TokenizerFile
    shards: tuple[Shard, ...]
    cache: CacheSettings | None = None
    rows: RowTables | None = None

    def __call__(self) -> Assembler:
        """A new assembler; parses the tokenizer, which takes half a second."""
        return Assembler(self.recipe, self.tokenizer, self.shards, self.cache, self.rows)


class Assembler:
    """Makes the frames of one recipe and set of shards. Not for use by two threads at once."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: TokenizerFile,
        shards: Sequence[Shard],
        cache: CacheSettings | None = None,
        rows: RowTables | None = None,
    ) -> None:
        self._recipe, self._shards = recipe, shards
        self._cache = None if cache is None else PixelCache(cache)
        self._assembly, self._drawing = assembly_id(recipe), drawing_id(recipe)
        built = tokenizer.build()
        self._pad_id = built.pad_id
        self._encoder = Encoder(recipe, built, indexed=True)
        self._layout = recipe.make_layout()
        self._decoder = Decoder(self._layout.transparency)
        self._resize = make_resizer(recipe.resize)
        target = target_bytes(self._layout.most_target_pixels)
        self._sample_bytes = recipe.max_image_bytes + SLACK_BYTES + target
        self._filler = Row(self._layout.filler(built), RowInfo("", "", "filler", "", None))
        self._files = ShardFiles(shards)
        self._kept = None if rows is None else KeptRows(shards, rows)
        self._sources = None if cache is None else Sources(cache.directory)
        self._readers: dict[int, Readers] = {}

    def assemble(
        self,
        job: Job,
        buffer: memoryview,
        progress: Progress = lambda row: None,
        *,
        limits: SampleLimits | None = None,
    ) -> Assembled:
        """Write one whole `batch` frame into `buffer`, which holds at least `job.capacity` bytes.

        The frame's bytes are a pure function of the job and the bytes it names. No view of `buffer` is kept.
        `limits` are for a process that may be killed: the kernel does so (SIGXCPU) when one sample costs more CPU time,
        and memory is refused to its decoder. Without them, a sample for which there is no memory is tried again, then
        masked.

        Raises:
            ReadError: storage failed; nothing is masked for that.
            DataChangedError: a sample is not what was indexed.
            ContractError: the batch would break its layout's contract.
            SampleError: a sample is bad and the job says "fail".
            OutOfMemoryError: under `limits`: the pictures of the sample that `progress` was told take too much.
            WorkerError: there is not enough memory for the rest.
        """
        try:
            with CpuBudget() as budget:
                return _Assembly(self, job, progress, limits, budget).run(buffer)
        except BaseException as exc:
            # The traceback's frames hold views of the buffer, which its owner could not release.
            traceback.clear_frames(exc.__traceback__)
            if isinstance(exc, MemoryError):
                raise WorkerError(f"{job}: not enough memory; give workers more, or lower max_image_bytes") from exc
            raise

    def readers(self, shard: int, *, anew: bool = False) -> Readers:
        """Who may read a shard, and so what the cache keeps of it. `anew`: as it is now, not as it was first seen."""
        if anew or shard not in self._readers:
            assert self._sources is not None, "there is a cache"
            self._readers[shard] = self._sources.readers([self._shards[shard].path])
        return self._readers[shard]

    def blocks(self, size: RowSize) -> Blocks:
        """Memory for the pixels of a row of that size, outside of a batch."""
        dims = {entry.name: entry.dims[1:] for entry in self._layout.schema}
        rows = drawn_rows(self._layout, size)
        return {name: np.empty((count, *map(int, dims[name])), np.uint8) for name, count in rows.items() if count}

    def free(self) -> None:
        """Give back what is kept for the next picture."""
        self._decoder.free()
        self._resize = make_resizer(self._recipe.resize)
        give_back_memory()

    def close(self) -> None:
        """Close the shards and their row tables."""
        self._files.close()
        if self._kept is not None:
            self._kept.close()


class _Assembly:
    """One job on its way."""

    def __init__(
        self, assembler: Assembler, job: Job, progress: Progress, limits: SampleLimits | None, budget: CpuBudget
    ) -> None:
        self._of, self._job, self._limits, self._budget = assembler, job, limits, budget
        self._progress = progress
        self._clock = Stopwatch(*STAGES)
        self._bad: set[int] = set(job.condemned)
        self._masked: list[Quarantined] = []
        self._suspicious: list[Quarantined] = []
        self._tokenised = 0
        cache = assembler._cache
        self._cache_began = (cache.hits, cache.misses) if cache is not None else (0, 0)

    def run(self, buffer: memoryview) -> Assembled:
        of, job = self._of, self._job
        rows = [of._filler if row is None else self._encode(place, row) for place, row in enumerate(job.rows)]
        batch = Batch(of._layout, job, rows, buffer)
        report = self._collate(batch, rows)
        hoped = list(rows)
        for place, row in enumerate(hoped):
            rows[place] = self._drawn(place, row, batch)
            with self._clock.stage("hash"):
                batch.drawn(place)
        if not any(row.info.status == "ok" for row in rows) and (spare := self._good_spare()) is not None:
            rows, batch = self._with_spare(rows, *spare, buffer)
        if rows != hoped:
            report = self._collate(batch, rows)
        self._progress(-1)
        with self._clock.stage("hash"):
            frame = batch.close()
        statuses = tuple(row.info.status for row in rows)
        lengths = [row.encoded.size.text_tokens for row in rows]
        return Assembled(
            frame.start,
            frame.stop - frame.start,
            statuses,
            self._clock.seconds,
            report,
            tokens=sum(lengths),
            padding=max(lengths) * len(lengths) - sum(lengths),
            masked=tuple(self._masked),
            tokenised=self._tokenised,
            suspicious=tuple(self._suspicious),
            **self._cache_use(),
        )

    def _collate(self, batch: Batch, rows: Sequence[Row]) -> BatchReport:
        """Write the text of rows, and the header that goes with it."""
        self._progress(-1)
        with self._clock.stage("collate"):
            report = batch.collate(rows, self._of._pad_id)
            batch.open(rows)
        return report

    def _cache_use(self) -> dict[str, int]:
        cache = self._of._cache
        if cache is None:
            return {}
        hits, misses = self._cache_began
        return {"cache_hits": cache.hits - hits, "cache_misses": cache.misses - misses}

    def _encode(self, place: int, row: JobRow) -> Row:
        """Read a sample and make its row of text, whose sizes the index has promised."""
        self._begin(place)
        of, shard = self._of, self._of._shards[row.shard].name
        with self._clock.stage("read"):
            span = of._files.read(row.shard, row.offset, row.length, row.digest)
        with self._clock.stage("tokenise"):
            encoded = self._kept(row, span) or self._tokenise(shard, row, span)
            if encoded.row.size != row.size:
                raise _stale(shard, row, f"{row.size}, got {encoded.row.size}")
        info = RowInfo(shard, encoded.key, "ok", "", None)
        return Row(encoded.row, info, encoded.pictures, self._key(span, encoded.pictures))

    def _kept(self, row: JobRow, span: bytes) -> EncodedSample | None:
        """The sample as indexing has encoded it; None where that was not kept."""
        kept = self._of._kept
        return None if kept is None else kept.read(row.shard, row.number, row.digest, span, row.offset)

    def _tokenise(self, shard: str, row: JobRow, span: bytes) -> EncodedSample:
        self._tokenised += 1
        try:
            return self._of._encoder.encode(read_sample(shard, span, row.offset))
        except SampleError as exc:
            raise _stale(shard, row, f"a good sample, got {exc.reason}: {exc.detail}") from exc

    def _key(self, span: bytes, pictures: Sequence[tuple[Visual, Picture]]) -> bytes:
        """What the cache calls the row's pixels; nothing where there is no cache, or no picture."""
        of = self._of
        if of._cache is None or not pictures:
            return b""
        return pixels_key(span, [visual for visual, _ in pictures], of._drawing, of._assembly)

    def _drawn(self, place: int, row: Row, batch: Batch) -> Row:
        """The row, its pictures drawn; masked if they cannot be."""
        if row.info.status == "filler":
            return row
        try:
            self._draw(place, row, batch.pixels(place))
        except SampleError as exc:
            if self._job.on_bad_sample == "fail":
                raise
            self._bad.add(self._job.row_at(place).digest)
            self._masked.append(Quarantined.of(exc, key=exc.key, offset=-1).in_shard(exc.shard))
            batch.blank(place)
            return row.masked(exc.raw())
        return row

    def _draw(self, place: int, row: Row, out: Blocks) -> None:
        """Decode a row's pictures into its part of the drawn tensors.

        Raises:
            SampleError: with the whole place of the fault.
            OutOfMemoryError: see `Assembler.assemble`.
        """
        try:
            with self._memory_of(place, row):
                return self._draw_once(place, row, out)
        except MemoryError as exc:
            if self._limits is not None:
                raise OutOfMemoryError from exc
        self._of.free()
        try:
            self._draw_once(place, row, out)
        except MemoryError as exc:
            raise self._condemned(place, row, NO_MEMORY) from exc

    def _memory_of(self, place: int, row: Row) -> AbstractContextManager[None]:
        limits = self._limits
        if limits is None or not row.pictures or self._job.row_at(place).digest in limits.proven:
            return nullcontext()
        return at_most_more(self._of._sample_bytes)

    def _condemned(self, place: int, row: Row, reason: str) -> SampleError:
        offset = self._job.row_at(place).offset
        return SampleError("decoder_died", reason, shard=row.info.shard, key=row.info.key, offset=offset)

    def _draw_once(self, place: int, row: Row, out: Blocks) -> None:
        self._begin(place)
        sample = self._job.row_at(place)
        shard, key = row.info.shard, row.info.key
        if sample.digest in self._job.condemned:
            raise self._condemned(place, row, self._job.condemned[sample.digest])
        if row.cache_key and self._cached(row.cache_key, out, sample.shard):
            return
        suspicious = {}
        for visual, picture in row.pictures:
            try:
                with self._clock.stage("decode"):
                    pixels, warning = self._of._decoder.decode(picture.member.data, picture.header)
            except SampleError as exc:
                exc.at(shard=shard, key=key, member=picture.member.name, offset=picture.member.offset)
                raise
            if warning:
                suspicious[picture.member.offset] = _suspicious(shard, key, picture.member, warning)
            with self._clock.stage("resize"):
                block = out[visual.tensor][visual.first : visual.first + visual.rows]
                self._of._layout.draw(pixels, visual, block, self._of._resize)
        self._suspicious += suspicious.values()
        # What is suspicious is not kept, so that it is counted whenever it is sent.
        if row.cache_key and self._of._cache is not None and not suspicious:
            with self._clock.stage("cache"):
                self._of._cache.write(row.cache_key, out, self._of.readers(sample.shard, anew=True))

    def _cached(self, key: bytes, out: Blocks, shard: int) -> bool:
        with self._clock.stage("cache"):
            return self._of._cache is not None and self._of._cache.read(key, out, self._of.readers(shard))

    def _good_spare(self) -> tuple[Row, Blocks] | None:
        """The first row of the global step that is good, with its pixels; None where no row is."""
        for place, spare in enumerate(self._job.spares, start=len(self._job.rows)):
            if spare.digest in self._bad:
                continue
            row = self._encode(place, spare)
            pixels = self._of.blocks(spare.size)
            try:
                self._draw(place, row, pixels)
            except SampleError:
                self._bad.add(spare.digest)
            else:
                return row, pixels
        return None

    def _with_spare(
        self, rows: Sequence[Row], spare: Row, pixels: Blocks, buffer: memoryview
    ) -> tuple[list[Row], Batch]:
        """The batch again, with `spare` in place of its last filler, or else of its first masked row."""
        statuses = [row.info.status for row in rows]
        last_filler = len(rows) - 1 - statuses[::-1].index("filler") if "filler" in statuses else None
        place = statuses.index("masked") if last_filler is None else last_filler
        mixed = [spare.repeated(row) if at == place else row for at, row in enumerate(rows)]
        batch = Batch(self._of._layout, self._job, mixed, buffer)
        for at in range(len(mixed)):
            batch.blank(at)
        for name, block in batch.pixels(place).items():
            block[...] = pixels[name]
        return mixed, batch

    def _begin(self, place: int) -> None:
        if self._limits is not None:
            self._budget.renew(self._limits.cpu_of(self._job.row_at(place).digest))
        self._progress(place)


def _suspicious(shard: str, key: str, member: Member, warning: str) -> Quarantined:
    detail = f"JPEG: {warning}; perhaps damaged, look at it"
    return Quarantined(shard, key, member.name, member.offset, "jpeg_suspicious", detail)


def _stale(shard: str, row: JobRow, what: str) -> OwlStreamError:
    """The bytes are those that were indexed, so the index was made by another recipe or program than it says."""
    return OwlStreamError(
        f"shard {shard}, sample @ {row.offset}: the index is stale: expected {what}; delete the index and index again"
    )
