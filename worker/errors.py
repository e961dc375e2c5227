"""How calls and jobs fail: the classes of error, the table that sorts a provider's answer into them, and the
exceptions. No message ever holds text of a prompt, of an answer or of a key."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from budget.money import Usage


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


@dataclass(eq=False)
class CallFailed(Exception):
    """One call failed. `billed` says whether the provider may charge for it all the same: then the attempt
    costs what `usage` says, or its whole reservation where no usage is known."""

    error_class: ErrorClass
    code: str
    sentence: str
    billed: bool
    usage: Usage | None = None
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return self.sentence


# By the provider's own code first, where it says more than the status does.
BY_CODE = {
    "insufficient_quota": ErrorClass.NEXT,
    "context_length_exceeded": ErrorClass.NEXT,
    "content_filter": ErrorClass.NEXT,
    "content_policy_violation": ErrorClass.NEXT,
    "model_not_found": ErrorClass.NEXT,
    "credit_balance": ErrorClass.NEXT,
}

# Then by HTTP status. What is not here: other 4xx NEXT, other 5xx SAME.
BY_STATUS = {
    400: ErrorClass.NEXT,
    401: ErrorClass.NEXT,
    403: ErrorClass.NEXT,
    404: ErrorClass.NEXT,
    408: ErrorClass.SAME,
    409: ErrorClass.SAME,
    413: ErrorClass.NEXT,
    422: ErrorClass.NEXT,
    429: ErrorClass.SAME,
    500: ErrorClass.SAME,
    502: ErrorClass.SAME,
    503: ErrorClass.SAME,
    504: ErrorClass.SAME,
    529: ErrorClass.NEXT,
}


def classify(status: int, code: str | None) -> ErrorClass:
    """The class of a provider's error answer."""
    if code in BY_CODE:
        return BY_CODE[code]
    return BY_STATUS.get(status, ErrorClass.SAME if status >= 500 else ErrorClass.NEXT)


@dataclass(eq=False)
class RunAgain(Exception):
    """The job should be tried again in `after_s` seconds; `why` is fit to be shown."""

    after_s: float
    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(eq=False)
class Deferred(Exception):
    """The job is parked until a budget has room for `needed` nano-USD, which is so `until` then at the latest; the
    sweeper publishes it again."""

    why: str
    until: datetime
    needed: int

    def __str__(self) -> str:
        return self.why


class UnknownJob(JobFailed):
    """A message named a job that SQL does not have."""


class NotOurs(Exception):
    """Somebody else runs the job: there is nothing to do and nothing to report."""


class Cancelled(Exception):
    """The job was cancelled, and whoever waits for it was told so."""
