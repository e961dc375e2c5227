"""Traces from the submit of a job to the provider's answer, by OpenTelemetry: off unless one of its variables asks for
them, and then of no cost but a look at the environment. Spans hold ids, models, codes and costs, never a text of a job
or a user; of exceptions they hold the code or the type."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from db.once import once_per_environment

ASKED_BY = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTERS = ("otlp", "console")

logger = logging.getLogger(__name__)


@once_per_environment
def _tracer() -> Any:
    """The tracer, None if traces are off. A provider that the application has set up is used as it is."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    off = exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not any(os.environ.get(name) for name in ASKED_BY):
        return None
    if exporter not in EXPORTERS:
        logger.warning("OTEL_TRACES_EXPORTER: %r is not known here; give otlp, console or none", exporter[:20])
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError:
        logger.warning("OTEL_… asks for traces, but the packages are missing: pip install 'paymaster[otel]'")
        return None
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(_provider(exporter))
    return trace.get_tracer("paymaster")


def _provider(exporter: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "paymaster"}
    provider = TracerProvider(resource=Resource.create(name))
    chosen = OTLPSpanExporter() if exporter == "otlp" else ConsoleSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(chosen))
    return provider


@contextmanager
def span(
    name: str, role: str = "INTERNAL", parent: Mapping[str, Any] | None = None, **attributes: str | int | None
) -> Iterator[None]:
    """A span around the block, below the one that is open here, or below the one whose headers are in `parent`."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # baggage stays out: it may hold anything
    context = TraceContextTextMapPropagator().extract(parent) if parent else None
    opened = tracer.start_as_current_span(
        name,
        context=context,
        kind=SpanKind[role],
        attributes=_named(attributes),
        record_exception=False,
        set_status_on_exception=False,
    )
    with opened as current:
        try:
            yield
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR))
            current.set_attribute("error.type", getattr(error, "code", None) or type(error).__name__)
            raise


def describe(**attributes: str | int | None) -> None:
    """Add to the span that is open here."""
    if _tracer() is not None:
        from opentelemetry import trace

        trace.get_current_span().set_attributes(_named(attributes))


def headers() -> dict[str, str]:
    """What a message must carry so that its run belongs to the trace that is open here."""
    carrier: dict[str, str] = {}
    if _tracer() is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
    return carrier


def _named(attributes: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {f"paymaster.{name}": value for name, value in attributes.items() if value is not None}
