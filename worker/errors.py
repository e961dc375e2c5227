"""How calls and jobs fail: the classes of error, the table that sorts a provider's answer into them, and the
exceptions. No message ever holds text of a prompt, of an answer or of a key."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from budget.breaker import Verdict
from budget.money import Usage
from db.attempts import RUNNER_LOST


class ErrorClass(StrEnum):
    """What helps against an error."""

    SAME = "same"  # trying the same model again, later
    NEXT = "next"  # trying the next model
    NEVER = "never"  # nothing: the request itself is at fault


class JobFailed(Exception):
    """The job has failed for good. The message is one sentence for whoever submitted it, `code` a word for
    programs."""

    def __init__(self, sentence: str, code: str = "failed") -> None:
        super().__init__(sentence)
        self.code = code


class InvalidJob(ValueError):
    """The job cannot be accepted. The message names the field and what would be right."""


class Sort(NamedTuple):
    """Which class an error is of, and what it says of its model to the breaker."""

    error_class: ErrorClass
    verdict: Verdict


_SAME_BAD = Sort(ErrorClass.SAME, Verdict.BAD)
_NEXT_BAD = Sort(ErrorClass.NEXT, Verdict.BAD)
# the caller's own prompt is at fault, or nobody
_SAME, _NEXT, _NEVER = (Sort(error_class, Verdict.NOTHING) for error_class in ErrorClass)

# By the code first, the provider's own or ours: it says more than the status does. docs/errors.md has it in words.
BY_CODE = {
    # the provider's
    "insufficient_quota": _NEXT_BAD,
    "credit_balance": _NEXT_BAD,
    "model_not_found": _NEXT_BAD,
    "context_length_exceeded": _NEXT,
    "content_policy_violation": _NEXT,
    "content_filter": _NEXT,
    # of an answer that came
    "refused": _NEXT,
    "answer_cut": _NEXT,
    "invalid_answer": _NEXT_BAD,
    "unreadable": _NEXT,
    # of an answer that did not
    "timeout": _SAME_BAD,
    "no_connection": _SAME_BAD,
    "broken_answer": _SAME_BAD,
    # of a call that was not made, or that we broke off
    "no_key": _NEXT,
    "no_address": _NEXT,
    "not_sent": _NEVER,
    "late_record": _SAME,
    "shutdown": _SAME,
    RUNNER_LOST: _SAME,
}

# Then by HTTP status. What is not here: other 4xx as 400, other 5xx as 500.
BY_STATUS = {
    400: _NEXT,
    401: _NEXT_BAD,
    403: _NEXT_BAD,
    404: _NEXT_BAD,
    408: _SAME_BAD,
    409: _SAME_BAD,
    413: _NEXT,
    422: _NEXT,
    429: _SAME_BAD,
    500: _SAME_BAD,
    529: _NEXT_BAD,
}

# Failures that say nothing against trying the same model again.
NOT_THE_MODELS_FAULT = ("late_record", "shutdown", RUNNER_LOST)


def classify(status: int, code: str | None) -> Sort:
    """What a provider's error answer is."""
    if code in BY_CODE:
        return BY_CODE[code]
    return BY_STATUS.get(status, BY_STATUS[500 if status >= 500 else 400])


class CallFailed(Exception):
    """One call failed. `billed` says whether the provider may charge for it all the same: then the attempt costs
    what `usage` says, or its whole reservation where no usage is known. `sort` is `BY_CODE`'s unless it is given."""

    def __init__(
        self,
        code: str,
        sentence: str,
        *,
        billed: bool,
        usage: Usage | None = None,
        retry_after_s: float | None = None,
        sort: Sort | None = None,
    ) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.billed = billed
        self.usage = usage
        self.retry_after_s = retry_after_s
        self.error_class, self.verdict = sort or BY_CODE[code]


@dataclass(eq=False)
class RunAgain(Exception):
    """The job should be tried again in `after_s` seconds; `why` is fit to be shown."""

    after_s: float
    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(eq=False)
class Deferred(Exception):
    """The job is parked `until` then; the sweeper publishes it again. If it waits for a budget to have room for
    `needed` nano-USD, that may be so before."""

    why: str
    code: str
    until: datetime
    needed: int | None = None

    def __str__(self) -> str:
        return self.why


class UnknownJob(JobFailed):
    """A message named a job that SQL does not have."""


class NotOurs(Exception):
    """Somebody else runs the job: there is nothing to do and nothing to report."""


class Cancelled(Exception):
    """The job was cancelled, and whoever waits for it was told so."""
