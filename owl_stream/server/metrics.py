"""What the server counts, for Prometheus. Read from the parts when asked: nothing is counted twice.

docs/operations.md has the table; tests hold the names against it, the dashboard and Prometheus' own rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from owl_stream import __version__
from owl_stream.assemble import STAGES
from owl_stream.errors import ContractError
from owl_stream.inert import inert
from owl_stream.server.connections import open_descriptors
from owl_stream.server.streams import Sent
from owl_stream.server.waiting import Side, Slower
from owl_stream.wire import Status

if TYPE_CHECKING:
    from owl_stream.server.state import ServerState

PREFIX = "owl_stream_"
ASSEMBLY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

LIMITS = (("server", "max_streams"), ("token", "max_streams_per_token"))
SIDES: tuple[Side, ...] = get_args(Side)
INFO = ("stream", "dataset", "rank", "token", "slower")

Labels = tuple[str, ...]
Values = Iterable[tuple[Labels, float]]


class Metrics(Collector):
    """One server's metrics, in a registry of its own."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._began_at = time.time()
        disable_created_metrics()  # type: ignore[no-untyped-call] # `start_time_seconds` says it once for all
        self._registry = CollectorRegistry()
        self._registry.register(self)
        assembly = Histogram(
            PREFIX + "assembly_seconds",
            "From asking for a frame to having it, a wait for a worker included.",
            buckets=ASSEMBLY_BUCKETS,
            registry=self._registry,
        )
        state.engine.on_assembled = assembly.observe

    def render(self) -> tuple[bytes, str]:
        """The exposition and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """All metric families, as they are now."""
        yield _gauge("build_info", "Always 1.", [((__version__,), 1)], "version")
        yield _gauge("start_time_seconds", "When the server started, since 1970.", [((), self._began_at)])
        yield _gauge("ready", "1 when every dataset can be served.", [((), float(self._state.catalogue.ready()))])
        stuck = len(self._state.stuck())
        yield _gauge("stuck_calls", "Reads, workers and shards that wait for storage too long.", [((), stuck)])
        yield from self._datasets()
        yield from self._sent()
        yield from self._streams()
        yield from self._engine()
        yield from self._http()

    def _datasets(self) -> Iterator[Metric]:
        entries = self._state.catalogue.entries
        opened = {name: entry.dataset for name, entry in entries.items() if entry.dataset is not None}
        samples = [((name,), float(dataset.samples)) for name, dataset in opened.items()]
        bad = [((name,), float(dataset.quarantined)) for name, dataset in opened.items()]
        steps = [((name,), float(dataset.steps_per_epoch)) for name, dataset in opened.items()]
        progress = [((name,), entry.progress) for name, entry in entries.items()]
        yield _gauge("dataset_samples", "Samples of the manifest.", samples, "dataset")
        yield _gauge("dataset_quarantined", "Samples found bad at indexing.", bad, "dataset")
        yield _gauge("dataset_steps", "Global steps of an epoch.", steps, "dataset")
        yield _gauge("dataset_indexed_ratio", "Share of bytes indexed.", progress, "dataset")

    def _sent(self) -> Iterator[Metric]:
        sent = {name: self._state.streams.sent[name] for name in self._state.catalogue.entries}

        def each(value: Callable[[Sent], float]) -> Values:
            return (((name,), value(part)) for name, part in sent.items())

        def counts(**keys: str) -> Values:
            return (((name, label), part.counts[key]) for name, part in sent.items() for label, key in keys.items())

        skipped = (((name, reason), n) for name, part in sent.items() for reason, n in part.masked.items())
        rows = counts(**{status: f"rows_{status}" for status in get_args(Status)})
        cache = counts(hit="cache_hits", miss="cache_misses")
        checked = counts(media="rows_with_media", text="text_only_rows")
        query = "Rows as the layout's check saw them."
        yield _counter("batches", "Batches sent.", each(lambda part: part.batches), "dataset")
        yield _counter("sent_bytes", "Bytes of batches.", each(lambda part: part.nbytes), "dataset")
        units = "What vision towers are given: crops, images, tiles, videos."
        yield _counter("units", units, each(lambda part: part.counts["units"]), "dataset")
        yield _counter("rows", "Rows sent; those that are `ok` are samples.", rows, "dataset", "status")
        tokens = counts(attended="tokens", padding="padding")
        yield _counter("tokens", "Tokens sent, of texts and of what pads them.", tokens, "dataset", "kind")
        yield _counter("checked_rows", query, checked, "dataset", "kind")
        found = "Rows with pictures whose pixels were looked for in the cache, for batches that were sent."
        yield _counter("cache_lookups", found, cache, "dataset", "outcome")
        anew = "Rows that were tokenised at assembly; with `keep_rows` only those whose kept row was not to be had."
        yield _counter("tokenised_rows", anew, each(lambda part: part.counts["tokenised"]), "dataset")
        odd = "Pictures sent although their decoder warned: they may be damaged."
        yield _counter("suspicious_images", odd, each(lambda part: part.counts["suspicious"]), "dataset")
        yield _counter("skipped_samples", "Samples found bad at assembly, rows masked.", skipped, "dataset", "reason")

    def _streams(self) -> Iterator[Metric]:
        streams = self._state.streams
        now = streams.open.values()
        refused = [((limit,), streams.sums[f"refused_{setting}"]) for limit, setting in LIMITS]
        slower = [((side,), sum(each.slower == side for each in now)) for side in get_args(Slower)]
        info = [((each.id, each.dataset, str(each.at.rank), each.reader, each.slower), 1) for each in now]
        waited = [((name, side), self._waited(name, side)) for name in self._state.catalogue.entries for side in SIDES]
        reported = {activity.removesuffix("_s"): seconds for activity, seconds in streams.reported.items()}
        waits = "Seconds that streams waited: readers for assembly, or the server for its readers."
        clients = "Seconds that clients report: waiting for batches or bytes, verifying, copying to the device."
        yield _gauge("streams_open", "Streams open now.", [((), len(now))])
        yield _counter("streams", "Streams that were opened.", [((), streams.sums["streams"])])
        yield _counter("streams_ended", "Streams by how they ended.", _by_label(streams.ended), "reason")
        yield _counter("streams_refused", "Streams refused with 429, by the limit.", refused, "limit")
        yield _gauge("streams_by_slower_side", "Open streams by who is waited for.", slower, "slower")
        yield _gauge("stream_info", "Always 1, for every open stream.", info, *INFO)
        yield _counter("stream_wait_seconds", waits, waited, "dataset", "waited_for")
        yield _counter("client_seconds", clients, _by_label(reported), "activity")

    def _engine(self) -> Iterator[Metric]:
        engine = self._state.engine.statistics()
        failed = dict(engine.failed)
        violations = failed.pop(ContractError.code, 0)
        seconds = {**dict.fromkeys((*STAGES, "queue"), 0.0), **engine.seconds, "send": self._sending()}
        bottleneck = self._state.bottleneck
        holding = [((stage,), float(bottleneck is not None and bottleneck.stage == stage)) for stage in STAGES]
        yield _gauge("bottleneck", "1 for the dearest stage while streams wait for this server.", holding, "stage")
        yield _gauge("engine_workers", "Worker processes.", [((), engine.workers)])
        yield _gauge("engine_busy", "Workers that assemble now.", [((), engine.busy)])
        yield _gauge("engine_queued", "Frames that wait for a worker.", [((), engine.queued)])
        yield _gauge(
            "engine_leased", "Uses of assembled frames that are being sent or wait for it.", [((), engine.leased)]
        )
        yield _gauge("engine_slabs", "Pieces of shared memory for frames, two descriptors each.", [((), engine.slabs)])
        yield _gauge("engine_slab_bytes", "Shared memory for frames.", [((), engine.slab_bytes)])
        yield _gauge(
            "engine_free_bytes",
            "Shared memory that is kept for the next frames: a part of engine_slab_bytes.",
            [((), engine.free_bytes)],
        )
        kept = "Of finished frames that are kept for consumers a little behind others."
        yield _gauge("engine_kept_bytes", kept, [((), engine.kept_bytes)])
        yield _counter("engine_assembled", "Frames assembled.", [((), engine.assembled)])
        yield _counter("engine_shared", "Frames that joined another's assembly.", [((), engine.shared)])
        yield _counter("engine_restarts", "Workers replaced.", [((), engine.restarts)])
        yield _gauge(
            "engine_condemned",
            "Samples whose decoder crashed, ran away or took too much memory twice.",
            [((), engine.condemned)],
        )
        yield _counter("assembly_failures", "Assemblies that failed, by error.", _by_label(failed), "code")
        yield _counter("contract_violations", "Batches that broke their layout and were not sent.", [((), violations)])
        yield _counter("stage_seconds", "Seconds of work and waiting by stage.", _by_label(seconds), "stage")

    def _http(self) -> Iterator[Metric]:
        connections = self._state.connections
        statuses = (((str(status),), n) for status, n in sorted(self._state.statuses.items()))
        yield _gauge("connections_open", "Connections open now.", [((), len(connections.open))])
        yield _gauge("descriptors_open", "Files, sockets and shared memory open now.", [((), open_descriptors())])
        help_text = "Connections ended for a limit: a status, full, or dropped for being silent or stuck."
        yield _counter("connections_refused", help_text, _by_label(connections.refused), "reason")
        yield _counter("http_responses", "Answers by status.", statuses, "status")

    def _sending(self) -> float:
        return sum(self._waited(name, "reader") for name in self._state.catalogue.entries)

    def _waited(self, dataset: str, side: Side) -> float:
        """Seconds of the streams that have ended and of those under way."""
        streams = self._state.streams
        running = (each.waiting.seconds(side) for each in streams.open.values() if each.dataset == dataset)
        return streams.sent[dataset].waited[side] + sum(running)


def _by_label(values: Mapping[str, float]) -> Values:
    return (((label,), float(value)) for label, value in sorted(values.items()))


def _gauge(name: str, documentation: str, values: Values, *labels: str) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, documentation, labels=labels)
    for each, value in values:
        family.add_metric([inert(label) for label in each], value)
    return family


def _counter(name: str, documentation: str, values: Values, *labels: str) -> Metric:
    family = CounterMetricFamily(PREFIX + name, documentation, labels=labels)
    for each, value in values:
        family.add_metric([inert(label) for label in each], value)
    return family
