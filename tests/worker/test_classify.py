"""What helps against a provider's error: the same model later, another model, or nothing."""

import pytest

from budget.money import Usage
from worker.errors import BY_CODE, BY_STATUS, CallFailed, ErrorClass, InvalidJob, JobFailed, classify

SAME, NEXT = ErrorClass.SAME, ErrorClass.NEXT
TABLE = {
    400: NEXT, 401: NEXT, 402: NEXT, 403: NEXT, 404: NEXT, 405: NEXT, 408: SAME, 409: SAME, 410: NEXT, 413: NEXT,
    418: NEXT, 422: NEXT, 429: SAME, 451: NEXT, 500: SAME, 501: SAME, 502: SAME, 503: SAME, 504: SAME, 520: SAME,
    529: NEXT, 599: SAME,
}  # fmt: skip


@pytest.mark.parametrize(("status", "error_class"), TABLE.items())
@pytest.mark.parametrize("code", [None, "", "rate_limit_exceeded", "overloaded_error", "server_error", "unheard_of"])
def test_without_a_telling_code_the_status_decides(status: int, error_class: ErrorClass, code: str | None) -> None:
    assert classify(status, code) is error_class


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
@pytest.mark.parametrize(
    "code",
    ["insufficient_quota", "credit_balance", "context_length_exceeded", "content_filter", "content_policy_violation",
     "model_not_found"],
)  # fmt: skip
def test_what_the_same_model_will_never_do_goes_to_the_next_whatever_the_status(status: int, code: str) -> None:
    assert classify(status, code) is NEXT


def test_an_empty_account_is_not_tried_again_like_a_rate_limit() -> None:
    assert classify(429, "insufficient_quota") is not classify(429, "rate_limit_exceeded")


def test_the_tables_hold_nothing_that_is_not_tested_here() -> None:
    assert set(BY_STATUS) <= set(TABLE)
    assert set(BY_CODE.values()) == {NEXT}


def test_the_errors_are_their_sentence() -> None:
    assert str(JobFailed("It failed.", "budget")) == "It failed."
    assert (JobFailed("It failed.").code, JobFailed("x", "budget").code) == ("failed", "budget")
    failure = CallFailed(SAME, "timeout", "No answer.", billed=True, usage=Usage(5))
    assert str(failure) == "No answer."
    assert (failure.error_class, failure.billed, failure.usage) == ("same", True, Usage(5))
    assert issubclass(InvalidJob, ValueError)
