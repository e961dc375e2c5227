"""Log lines: their fields, whose job they are of, and what they never hold."""

import asyncio
import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from db.environment import SettingsError
from db.once import once_per_environment
from tests.worker.conftest import Simulator
from tests.worker.lab import run, run_to_the_end, submit
from worker.errors import JobFailed, RunAgain
from worker.logs import redact, setup

SECRET = "sk-sentinel-0123456789"


@contextmanager
def lines(**environment: str) -> Iterator[list[dict[str, Any]]]:
    """Every line written meanwhile, as JSON."""
    stream, found = io.StringIO(), []
    with pytest.MonkeyPatch.context() as patch, restored():
        for name, value in environment.items():
            patch.setenv(name, value)
        once_per_environment.forget_all()
        setup(stream=stream)
        yield found
        found += [json.loads(line) for line in stream.getvalue().splitlines()]


@contextmanager
def restored() -> Iterator[None]:
    import sys

    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in list(logging.root.manager.loggerDict))]
    before = [(one, one.level, one.handlers[:], one.filters[:]) for one in loggers]
    hooks = sys.excepthook, threading.excepthook, warnings.showwarning
    try:
        yield
    finally:
        for one, level, handlers, filters in before:
            one.setLevel(level)
            one.handlers, one.filters = handlers, filters
        sys.excepthook, threading.excepthook, warnings.showwarning = hooks


def test_every_line_of_a_job_bears_its_context(simulator: Simulator) -> None:
    simulator.fault(fault="status", status=529, first=1)
    with lines() as found:
        job_id = submit()
        with pytest.raises(RunAgain):
            run(job_id)
        run(job_id)
        other = submit()
        run(other)
    mine = [line for line in found if line.get("job_id") == job_id]
    assert len(mine) >= 2
    assert all(set(line) >= {"kind", "queue", "attempt", "model", "cost_nano", "timestamp", "level"} for line in mine)
    assert mine[-1]["event"] == "job succeeded"
    assert mine[-1]["attempt"] == 2 and mine[-1]["cost_nano"] > 0
    assert len({line["model"] for line in mine}) == 2
    last = [line for line in found if line.get("job_id") == other][-1]
    assert (last["attempt"], last["kind"], last["queue"]) == (1, "parse", "parse")


def test_the_context_ends_with_the_job(simulator: Simulator) -> None:
    with lines() as found:
        run(submit())
        logging.getLogger("worker.anything").info("after it")
    assert "job_id" not in found[-1]


def test_lines_from_the_event_loop_bear_it_too(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    import worker.attempt

    original = worker.attempt.call

    async def talkative(*args: Any) -> Any:
        logging.getLogger("somebody.elses").warning("from the loop")
        return await original(*args)

    monkeypatch.setattr(worker.attempt, "call", talkative)
    with lines() as found:
        job_id = submit()
        run(job_id)
    told = next(line for line in found if line["event"] == "from the loop")
    assert (told["job_id"], told["attempt"], told["logger"]) == (job_id, 1, "somebody.elses")


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_no_text_of_a_job_and_no_key_is_in_any_line(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    sentinel = "zqsentinelword"
    posting = f"The {sentinel} bakery looks for a night baker who knows {sentinel} dough. " * 30
    simulator.fault(fault="invalid_json")
    with lines(LOG_LEVEL=level, OPENAI_API_KEY=SECRET, ANTHROPIC_API_KEY=SECRET) as found:
        job_id = submit(job_description=posting)
        with pytest.raises(JobFailed):
            run_to_the_end(job_id)
        simulator.reset()

        def unforeseen(*_: Any) -> None:
            raise KeyError(posting)

        monkeypatch.setattr("tasks.kinds.Parse.requests", unforeseen)
        with pytest.raises(JobFailed, match="internal"):
            run(submit(job_description=posting))
        try:
            raise ValueError(posting) from RuntimeError(SECRET)
        except ValueError:
            logging.getLogger("kombu").exception("a library's own traceback")
        logging.getLogger("kombu").error("and a key: %s, redis://u:%s@h", SECRET, SECRET)
        thread = threading.Thread(target=unforeseen)
        thread.start()
        thread.join()
    text = json.dumps(found)
    assert len(found) >= 6
    assert sentinel not in text
    assert SECRET not in text
    told = next(line for line in found if line["event"] == "a library's own traceback")
    assert "ValueError at" in told["exception"] and "RuntimeError at" in told["exception"]
    assert "test_logs.py" in told["exception"]


def test_asyncio_does_not_quote_lost_exceptions() -> None:
    async def lose() -> None:
        async def fail() -> None:
            raise ValueError(SECRET)

        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        del task

    with lines() as found:
        asyncio.run(lose())
        import gc

        gc.collect()
    assert any("never retrieved" in line["event"] for line in found)
    assert SECRET not in json.dumps(found)


def test_celerys_own_line_of_an_unforeseen_error_quotes_nothing() -> None:
    with lines() as found:
        context = {"name": "t", "id": "1", "description": "raised unexpected", "exc": f"ValueError({SECRET!r})",
                   "traceback": SECRET, "args": SECRET, "kwargs": SECRET}  # fmt: skip
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            logging.getLogger("celery.app.trace").error(
                "Task %(name)s[%(id)s] %(description)s: %(exc)s", context, exc_info=error, extra={"data": context}
            )
    assert SECRET not in json.dumps(found)
    assert found[0]["event"] == "Task t[1] raised unexpected: ValueError"


def test_our_level_is_log_levels_and_libraries_never_say_more_than_info() -> None:
    with lines(LOG_LEVEL="debug") as found:
        logging.getLogger("worker.x").debug("ours")
        logging.getLogger("openai").debug("theirs")
    assert [line["event"] for line in found] == ["ours"]
    with lines(LOG_LEVEL="WARNING") as found:
        logging.getLogger("worker.x").info("ours")
    assert found == []


def test_readable_lines_where_they_are_asked_for() -> None:
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, restored():
        patch.setenv("LOG_FORMAT", "console")
        once_per_environment.forget_all()
        setup(stream=stream)
        logging.getLogger("worker.x").warning("look")
    once_per_environment.forget_all()
    assert "look" in stream.getvalue() and not stream.getvalue().startswith("{")


@pytest.mark.parametrize(("name", "value"), [("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml"), ("METRICS_PORT", "x")])
def test_a_bad_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    once_per_environment.forget_all()
    with pytest.raises(SettingsError, match=name):
        setup()
    once_per_environment.forget_all()


def test_a_warning_is_told_by_its_kind_and_place_alone() -> None:
    """Pydantic's quote what they are about."""
    with lines() as found, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("input_value='the posting of somebody'", UserWarning, stacklevel=1)
    (line,) = found
    assert line["event"].startswith("UserWarning at ") and "test_logs.py:" in line["event"]
    assert "posting" not in json.dumps(line)


def test_an_address_that_is_none_hides_no_other_secret() -> None:
    with lines(ALERT_WEBHOOK_URL="https://[hooks.example.com/no-end", OPENAI_API_KEY=SECRET) as found:
        logging.getLogger("watch.x").warning("with %s", SECRET)
    assert [line["event"] for line in found] == ["with (hidden)"]


def test_a_thread_that_ends_on_purpose_is_not_told() -> None:
    def leave() -> None:
        raise SystemExit(0)

    def fail() -> None:
        raise ValueError(SECRET)

    with lines() as found:
        for work in (leave, fail):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    assert [line["event"] for line in found] == ["a thread ended"]
    assert "ValueError at" in found[0]["exception"] and SECRET not in json.dumps(found)


def test_a_webhooks_address_and_the_keys_in_headers_are_hidden() -> None:
    hook = "https://hooks.example.com/services/T0000/B0000/sentinel"
    with lines(
        ALERT_WEBHOOK_URL=hook, OTEL_EXPORTER_OTLP_HEADERS="x-tenant=shop,authorization=Bearer%20abcdefgh"
    ) as found:
        logging.getLogger("watch.x").warning("posting to %s failed, headers Bearer%%20abcdefgh", hook)
    (line,) = found
    assert "sentinel" not in line["event"] and "abcdefgh" not in line["event"]


def test_a_text_that_is_shown_elsewhere_loses_its_secrets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert redact(f"with {SECRET}") == "with (hidden)"
