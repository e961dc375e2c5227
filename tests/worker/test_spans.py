"""Spans as a program of its own writes them: off unless asked for, by names of ours, and of errors no more than the
code."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

NOWHERE = "http://127.0.0.1:1"
SPANS = """
from worker.errors import JobFailed
from worker.traces import describe, headers, span
def fail(error):
    try:
        with span(type(error).__name__):
            raise error
    except Exception:
        pass
with span("submit", "PRODUCER", job_id="j", user=None):
    carried = headers()
with span("run", "CONSUMER", carried):
    describe(outcome="succeeded", code=None)
fail(JobFailed("sentinel", "budget"))
fail(ValueError("sentinel"))
"""
OFF = """
import sys
from worker import traces
with traces.span("x"):
    traces.describe(outcome="x")
    assert traces.headers() == {}
assert "opentelemetry" not in sys.modules
"""
OWN_PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
kept, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
from worker import traces
with traces.span("x"):
    pass
assert [span.name for span in kept.get_finished_spans()] == ["x"]
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=clean | environment, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip


def written(text: str) -> list[dict[str, Any]]:
    """The objects of a text that holds one after another."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


@pytest.mark.parametrize(("given", "name"), [({}, "paymaster"), ({"OTEL_SERVICE_NAME": "shop"}, "shop")])
def test_spans_go_to_the_console_where_that_is_asked_for(given: dict[str, str], name: str) -> None:
    told = run(SPANS, OTEL_TRACES_EXPORTER="console", **given).stdout
    submit, run_, failed, bug = written(told)
    assert [span["name"] for span in (submit, run_, failed, bug)] == ["submit", "run", "JobFailed", "ValueError"]
    assert (run_["parent_id"], run_["context"]["trace_id"]) == (
        submit["context"]["span_id"], submit["context"]["trace_id"],
    )  # fmt: skip
    assert (submit["attributes"], run_["attributes"]) == ({"paymaster.job_id": "j"}, {"paymaster.outcome": "succeeded"})
    assert [span["attributes"]["error.type"] for span in (failed, bug)] == ["budget", "ValueError"]
    assert {span["status"]["status_code"] for span in (failed, bug)} == {"ERROR"}
    assert submit["resource"]["attributes"]["service.name"] == name
    assert "sentinel" not in told


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE},
    ],
)
def test_they_are_off_unless_asked_for(environment: dict[str, str]) -> None:
    assert run(OFF, **environment).stderr == ""


def test_an_exporter_that_is_not_known_is_named_once_and_they_are_off() -> None:
    told = run("import logging\nlogging.basicConfig()\n" + OFF, OTEL_TRACES_EXPORTER="zipkin")
    assert told.stderr.count("'zipkin' is not known here; give otlp, console or none") == 1


def test_a_provider_that_the_application_has_set_up_is_used_as_it_is() -> None:
    assert run(OWN_PROVIDER, OTEL_EXPORTER_OTLP_ENDPOINT=NOWHERE).stderr == ""
