"""Traces: one from the submitting program to the provider's answer, over a retry too, received by a real OTLP endpoint
from real processes; and nothing of a job's text or its user in them."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import select

from db.models import Attempt, JobState
from db.session import read
from tests.integration.conftest import RunningStack, wait_until
from tests.integration.test_shutdown import restart

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(170)]

SENTINEL = "zqtracedword"
SUBMIT = f"""
from tasks import parse
print(parse.delay(job_description="The {SENTINEL} bakery looks for a baker. " * 30, user_id="{SENTINEL}user").id)
"""


class Receiver:
    """What an OTLP endpoint was sent: spans, and the raw bytes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[bytes] = []

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of(self, job_id: str) -> list[Any]:
        """The spans of the trace whose submit names this job."""
        traces = {span.trace_id for span in self.spans if attributes(span).get("paymaster.job_id") == job_id}
        assert len(traces) <= 1
        return [span for span in self.spans if span.trace_id in traces]


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


@contextmanager
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def traced(quiet: RunningStack) -> Iterator[tuple[RunningStack, Receiver]]:
    """The stack with a parse worker that traces."""
    settings = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_BSP_SCHEDULE_DELAY")
    with receiver() as made:
        restart(quiet, **dict(zip(settings, (made.url, "none", "100"), strict=True)))
        try:
            yield quiet, made
        finally:
            for name in settings:
                del quiet.stack.environment[name]
            restart(quiet)


def submit(stack: RunningStack, **environment: str) -> str:
    """Submit a job from a program of its own, whose spans leave when it ends; the job's id."""
    told = subprocess.run(
        [sys.executable, "-c", SUBMIT],
        env={**os.environ, **stack.stack.environment, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return told.stdout.strip()


def test_one_trace_from_submit_to_the_providers_answer_over_a_retry(traced: tuple[RunningStack, Receiver]) -> None:
    stack, made = traced
    stack.fault(fault="status", status=529, first=1)
    job_id = submit(stack)
    assert stack.wait_final([job_id])[0].state == JobState.SUCCEEDED
    wait_until(lambda: [span.name for span in made.of(job_id)].count("settle") == 2)
    wait_until(lambda: [span.name for span in made.of(job_id)].count("run") == 2)
    spans = made.of(job_id)
    by_name = {name: [span for span in spans if span.name == name] for name in {span.name for span in spans}}
    assert {name: len(found) for name, found in by_name.items()} == {
        "submit": 1, "run": 2, "attempt": 2, "reserve": 2, "call": 2, "settle": 2,
    }  # fmt: skip
    parents = {span.span_id: span for span in spans}
    names = {(span.name, parents[span.parent_span_id].name) for span in spans if span.parent_span_id}
    assert names == {
        ("run", "submit"), ("attempt", "run"), ("reserve", "attempt"), ("call", "attempt"), ("settle", "attempt"),
    }  # fmt: skip
    first, second = sorted(by_name["attempt"], key=lambda span: span.start_time_unix_nano)
    assert attributes(first)["paymaster.error_code"] == stack_code(stack, job_id)
    assert attributes(second)["paymaster.outcome"] == "succeeded"
    assert attributes(second)["paymaster.cost_nano"] == stack.job(job_id).total_cost_nano
    assert {attributes(span)["paymaster.queue"] for span in by_name["run"]} == {"parse"}
    assert {attributes(span)["paymaster.outcome"] for span in by_name["run"]} == {"again", "succeeded"}
    assert SENTINEL.encode() not in b"".join(made.bodies)


def stack_code(stack: RunningStack, job_id: str) -> str | None:
    """The error code of the job's first attempt, by its row."""
    with read() as session:
        query = select(Attempt.error_code).where(Attempt.job_id == job_id, Attempt.number == 1)
        return session.scalars(query).one()


def test_a_failed_job_shows_its_code_and_no_text(traced: tuple[RunningStack, Receiver]) -> None:
    stack, made = traced
    stack.fault(fault="invalid_json")
    job_id = submit(stack)
    assert stack.wait_final([job_id])[0].state == JobState.FAILED
    wait_until(lambda: any(attributes(span).get("paymaster.outcome") == "failed" and span.name == "run"
                           for span in made.of(job_id)))  # fmt: skip
    codes = {attributes(span).get("paymaster.error_code") for span in made.of(job_id) if span.name == "attempt"}
    assert codes == {"invalid_answer"}
    assert SENTINEL.encode() not in b"".join(made.bodies)


def test_an_application_that_traces_nothing_sends_no_header(quiet: RunningStack) -> None:
    program = """
import sys
from worker import traces
assert traces.headers() == {}
with traces.span("x"):
    pass
assert "opentelemetry" not in sys.modules
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", program], env=clean, check=True, timeout=60)


def test_without_the_packages_there_is_one_warning(quiet: RunningStack) -> None:
    program = """
import logging, sys
sys.modules["opentelemetry"] = None
logging.basicConfig()
from worker import traces
for _ in range(3):
    with traces.span("x"):
        assert traces.headers() == {}
"""
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stderr.count("pip install 'paymaster[otel]'") == 1
