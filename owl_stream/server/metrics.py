"""What the server counts, for Prometheus. Read from the parts when asked: nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from owl_stream import __version__

if TYPE_CHECKING:
    from owl_stream.server.state import ServerState


class Metrics(Collector):
    """One server's metrics, in a registry of its own."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> tuple[bytes, str]:
        """The exposition and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """All metric families, as they are now."""
        yield _labelled(GaugeMetricFamily("owl_stream_build_info", "Always 1.", labels=["version"]), {__version__: 1})
        yield from self._streams()
        yield from self._engine()
        yield from self._datasets()

    def _streams(self) -> Iterator[Metric]:
        streams = self._state.streams
        yield GaugeMetricFamily("owl_stream_streams_open", "Streams open now.", len(streams.open))
        yield CounterMetricFamily("owl_stream_streams", "Streams that were opened.", streams.sums["streams"])
        refused = streams.sums["refused"]
        yield CounterMetricFamily("owl_stream_streams_refused", "Streams refused for want of places.", refused)
        yield CounterMetricFamily("owl_stream_batches", "Batches sent.", streams.sums["batches"])
        yield CounterMetricFamily("owl_stream_sent_bytes", "Bytes of batches sent.", streams.sums["bytes"])

    def _engine(self) -> Iterator[Metric]:
        engine = self._state.engine.statistics()
        gauges = {"workers": engine.workers, "busy": engine.busy, "queued": engine.queued, "leased": engine.leased}
        for name, value in gauges.items():
            yield GaugeMetricFamily(f"owl_stream_engine_{name}", f"{name.capitalize()} now.", value)
        yield GaugeMetricFamily("owl_stream_engine_slab_bytes", "Shared memory of frames.", engine.slab_bytes)
        yield CounterMetricFamily("owl_stream_engine_assembled", "Frames assembled.", engine.assembled)
        yield CounterMetricFamily("owl_stream_engine_shared", "Frames that joined another's assembly.", engine.shared)
        yield CounterMetricFamily("owl_stream_engine_restarts", "Workers replaced.", engine.restarts)
        stages = CounterMetricFamily("owl_stream_stage_seconds", "Seconds of work by stage.", labels=["stage"])
        yield _labelled(stages, engine.seconds)
        counts = CounterMetricFamily("owl_stream_assembled", "What was in assembled batches, by kind.", labels=["kind"])
        yield _labelled(counts, engine.report)

    def _datasets(self) -> Iterator[Metric]:
        samples = GaugeMetricFamily("owl_stream_dataset_samples", "Samples of the manifest.", labels=["dataset"])
        bad = GaugeMetricFamily("owl_stream_dataset_quarantined", "Samples found bad at indexing.", labels=["dataset"])
        progress = GaugeMetricFamily("owl_stream_dataset_progress", "Share of bytes indexed.", labels=["dataset"])
        for name, entry in self._state.catalogue.entries.items():
            progress.add_metric([name], entry.progress)
            if entry.dataset is not None:
                samples.add_metric([name], entry.dataset.samples)
                bad.add_metric([name], entry.dataset.quarantined)
        yield from (samples, bad, progress)


def _labelled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]
) -> GaugeMetricFamily | CounterMetricFamily:
    for label, value in values.items():
        family.add_metric([label], value)
    return family
