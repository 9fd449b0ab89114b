"""OpenTelemetry traces, when OTEL_EXPORTER_OTLP_ENDPOINT says where to; otherwise nothing of it is even imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from owl_stream import __version__
from owl_stream.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORT_TIMEOUT_S = 2.0
"""A collector that is away must not keep the server from stopping in time."""


class Tracing:
    """Spans of streams and frames. Without a tracer every call does nothing."""

    def __init__(self, tracer: Tracer | None = None, close: Callable[[], None] = lambda: None) -> None:
        self._tracer = tracer
        self.close = close
        """Send what is left; may take `EXPORT_TIMEOUT_S`."""

    def span(self, name: str, attributes: Callable[[], Mapping[str, str | float]]) -> AbstractContextManager[object]:
        """The block is a span, inside the one that is open already. `attributes` is asked only where that is kept."""
        if self._tracer is None:
            return nullcontext()
        return self._tracer.start_as_current_span(f"owl_stream.{name}", attributes=attributes())


def begin_tracing(environ: Mapping[str, str] | None = None) -> Tracing:
    """Tracing as the environment says; OpenTelemetry's own variables set sampling, headers and names.

    Raises:
        ConfigError: an endpoint is set and the packages are not installed.
    """
    variable = next((each for each in ENDPOINTS if (os.environ if environ is None else environ).get(each)), None)
    if variable is None:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 # optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError(
            f"{variable}: traces need more than is installed ({exc.name}): pip install 'owl-stream[otel]'"
        ) from exc
    own = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "owl-stream"), "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_TIMEOUT_S)))
    return Tracing(provider.get_tracer("owl_stream.server", __version__), provider.shutdown)
