"""What helps against an error, and what it says of its model: the same model later, another model, or nothing."""

from pathlib import Path

import pytest

from budget.breaker import Verdict
from budget.money import Usage
from worker.errors import (
    BY_CODE,
    BY_STATUS,
    NOT_THE_MODELS_FAULT,
    CallFailed,
    ErrorClass,
    InvalidJob,
    JobFailed,
    Sort,
    classify,
)

SAME, NEXT, NEVER = ErrorClass.SAME, ErrorClass.NEXT, ErrorClass.NEVER
BAD, NOTHING = Verdict.BAD, Verdict.NOTHING
STATUSES = {
    400: (NEXT, NOTHING), 401: (NEXT, BAD), 402: (NEXT, NOTHING), 403: (NEXT, BAD), 404: (NEXT, BAD),
    405: (NEXT, NOTHING), 408: (SAME, BAD), 409: (SAME, BAD), 410: (NEXT, NOTHING), 413: (NEXT, NOTHING),
    418: (NEXT, NOTHING), 422: (NEXT, NOTHING), 429: (SAME, BAD), 451: (NEXT, NOTHING), 500: (SAME, BAD),
    501: (SAME, BAD), 502: (SAME, BAD), 503: (SAME, BAD), 504: (SAME, BAD), 520: (SAME, BAD), 529: (NEXT, BAD),
    599: (SAME, BAD),
}  # fmt: skip
CODES = {
    "insufficient_quota": (NEXT, BAD), "credit_balance": (NEXT, BAD), "model_not_found": (NEXT, BAD),
    "context_length_exceeded": (NEXT, NOTHING), "content_filter": (NEXT, NOTHING), "refused": (NEXT, NOTHING),
    "content_policy_violation": (NEXT, NOTHING), "answer_cut": (NEXT, NOTHING), "invalid_answer": (NEXT, BAD),
    "unreadable": (NEXT, NOTHING), "timeout": (SAME, BAD), "no_connection": (SAME, BAD), "broken_answer": (SAME, BAD),
    "no_key": (NEXT, NOTHING), "no_address": (NEXT, NOTHING), "not_sent": (NEVER, NOTHING),
    "late_record": (SAME, NOTHING), "shutdown": (SAME, NOTHING), "runner_lost": (SAME, NOTHING),
}  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("code", [None, "", "rate_limit_exceeded", "overloaded_error", "server_error", "unheard_of"])
def test_without_a_telling_code_the_status_decides(status: int, code: str | None) -> None:
    assert classify(status, code) == Sort(*STATUSES[status])


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
@pytest.mark.parametrize("code", CODES)
def test_a_telling_code_decides_whatever_the_status(status: int, code: str) -> None:
    assert classify(status, code) == Sort(*CODES[code])


def test_an_empty_account_is_not_tried_again_like_a_rate_limit() -> None:
    assert classify(429, "insufficient_quota") != classify(429, "rate_limit_exceeded")


def test_the_tables_hold_nothing_that_is_not_tested_here_or_not_in_the_docs() -> None:
    assert set(BY_STATUS) <= set(STATUSES)
    assert {code: tuple(sort) for code, sort in BY_CODE.items()} == CODES
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    for word in (*CODES, *BY_STATUS):
        assert f"`{word}`" in page, word
    assert set(NOT_THE_MODELS_FAULT) <= set(CODES)


def test_the_errors_are_their_sentence() -> None:
    assert str(JobFailed("It failed.", "budget")) == "It failed."
    assert (JobFailed("It failed.").code, JobFailed("x", "budget").code) == ("failed", "budget")
    failure = CallFailed("timeout", "No answer.", billed=True, usage=Usage(5))
    assert str(failure) == "No answer."
    assert (failure.error_class, failure.verdict, failure.billed, failure.usage) == ("same", "bad", True, Usage(5))
    assert issubclass(InvalidJob, ValueError)
