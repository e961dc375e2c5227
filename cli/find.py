"""The row that a person means by the start of its id."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy.orm import Session

from cli.inputs import InputError
from db import attempts, jobs
from db.models import Attempt, Job

T = TypeVar("T")


def one_job(session: Session, start: str) -> Job:
    """The job whose id begins so; `InputError` if there is none or more than one."""
    return _one("job", start, jobs.by_prefix(session, start))


def one_attempt(session: Session, start: str) -> Attempt:
    """The attempt whose id begins so; `InputError` if there is none or more than one."""
    return _one("attempt", start, attempts.by_prefix(session, start))


def _one(what: str, start: str, found: Sequence[T]) -> T:
    if len(found) != 1:
        raise InputError(f"there is {'more than one' if found else 'no'} {what} whose id begins with {start!r}")
    return found[0]
