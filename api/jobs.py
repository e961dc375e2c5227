"""Submit, find, wait for and cancel jobs over HTTP."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from anyio import CapacityLimiter, to_thread
from celery.utils import uuid
from fastapi import APIRouter, Depends, Header, Query, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from api import problems, schemas, views
from api.access import Caller, needs
from api.docs import BATCH, answers, takes
from api.money import uses_of
from api.pause import Pause
from api.problems import Problem
from api.reading import Body, Word, answer, pack, read_object, unpack
from api.settings import ApiSettings, Role
from api.vectors import with_vectors
from api.writing import writing
from budget.ledger import ScopeUse
from db import jobs
from db.environment import read_settings
from db.models import Job, JobState
from db.session import read, write
from tasks import KINDS
from tasks.kinds import Embed
from worker.app import app as celery_app
from worker.control import tell_cancelled
from worker.errors import InvalidJob
from worker.foresee import foresee
from worker.results import waited_for
from worker.submit import Order, place, place_all, prepare
from worker.task import JobTask

LONGEST_WAIT_S = 60
# on another connection, if the broker was started anew
RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0}

Submitter = Annotated[Caller, Depends(needs(Role.SUBMIT))]
Reader = Annotated[Caller, Depends(needs(Role.SUBMIT, Role.READ))]
Model = Annotated[str | None, Header(alias="X-LLM-Model", description="The model to use, where that is honoured.")]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="The submitter's own name of the job: sent again, it is the same job."),
]

if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[tuple(KINDS)]

logger = logging.getLogger(__name__)
_broker = Pause()
_telling = CapacityLimiter(1)
router = APIRouter(prefix="/jobs", tags=["jobs"])


def _submitter(task: JobTask) -> Callable[..., Response]:
    def submit(body: Body, caller: Submitter, x_llm_model: Model = None, idempotency_key: Key = None) -> Response:
        return _submit(task, body, caller, x_llm_model, idempotency_key)

    return submit


for _name, _task in KINDS.items():
    router.add_api_route(
        f"/{_name}/",
        writing(_submitter(_task)),
        methods=["POST"],
        name=f"submit_{_name}",
        description=(_task.kind.__doc__ or "").partition("\n")[0],
        **answers(202, schemas.Accepted, 402),
        **takes(_task.kind.payload_type.__name__, _task.kind.example),
    )


@router.post("/batch/", **answers(207, schemas.Outcomes), **takes("Batch", BATCH))
@writing
def submit_batch(body: Body, caller: Submitter, x_llm_model: Model = None) -> Response:
    """Submit many jobs, each with an outcome of its own: a job that is refused stops no other."""
    given = read_object(body)
    if [*given] != ["jobs"] or not isinstance(given["jobs"], list) or not given["jobs"]:
        raise Problem(422, "invalid", "field jobs: give a list of one job or more, and nothing else", field="jobs")
    most = read_settings(ApiSettings).api_max_batch
    if len(given["jobs"]) > most:
        raise Problem(
            422, "invalid", f"field jobs: has {len(given['jobs'])} jobs, at most {most} are taken (API_MAX_BATCH)",
            field="jobs",
        )  # fmt: skip
    uses: dict[str | None, list[ScopeUse]] = {}
    prepared = [_or_problem(fields, caller, x_llm_model, uses) for fields in given["jobs"]]
    orders = [order for order in prepared if isinstance(order, Order)]
    with _in_doubt():
        placed = iter(place_all([order.job for order in orders]))
    outcomes = []
    for order in prepared:
        made: Any = next(placed) if isinstance(order, Order) else order
        if isinstance(made, InvalidJob):
            made = problems.invalid_job(made)
        if isinstance(made, Problem):
            outcomes.append({"status": made.status, "problem": made.body})
        elif isinstance(order, Order):
            outcomes.append({"status": 202, "job": _publish(order, made)})
    return answer({"jobs": outcomes}, 207)


@router.get("/{job_id}/", **answers(200, schemas.Job, 404))
async def get_job(
    request: Request,
    caller: Reader,
    job_id: str,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for the end.")] = 0,
) -> Response:
    """One job: its state, its attempts, what it has cost so far and, once it has succeeded, its result."""
    if wait:
        job = await run_in_threadpool(_visible, job_id, caller)
        if not JobState(job.state).final:
            await request.app.state.waiting.until_over(job_id, wait)
    return await run_in_threadpool(_show, job_id, caller)


@router.get("/", **answers(200, schemas.Jobs))
def list_jobs(
    caller: Reader,
    state: JobState | None = None,
    kind: KindName | None = None,
    user_id: Word | None = None,
    api: Word | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=400, description="`next` of the page before.")] = None,
) -> Response:
    """Jobs that match, newest first, a page at a time."""
    after = _place(cursor) if cursor is not None else None
    with read() as session:
        found = jobs.find(
            session, state=state, kind=kind, user_id=caller.only(user_id), api=api, limit=limit + 1, after=after
        )
        rows = [views.job_row(job) for job in found[:limit]]
        last = found[limit - 1] if len(found) > limit else None
        return answer({"jobs": rows, "next": last and pack(last.created_at.isoformat(), last.id)})


@router.delete("/{job_id}/", **answers(200, schemas.JobRow, 404, 409))
@writing
def cancel_one(caller: Submitter, job_id: str) -> Response:
    """Cancel a job that is not under way. One that is running goes on: its call may be paid for."""
    job = _visible(job_id, caller)
    with write() as session:
        cancelled = jobs.cancel(session, job.id)
    job = _visible(job_id, caller)
    if job.state != JobState.CANCELLED:
        raise Problem(409, "conflict", f"the job is {job.state}; only one that waits can be cancelled")
    told = answer(views.job_row(job))
    if cancelled:
        # after the answer: Celery's backend tries for minutes to reach a Redis that is away
        told.background = BackgroundTask(_tell_cancelled, job.id)
    return told


async def _tell_cancelled(job_id: str) -> None:
    with suppress(Exception):  # each backend has errors of its own; SQL has it, and whoever asks learns it from there
        await to_thread.run_sync(tell_cancelled, celery_app, job_id, limiter=_telling, abandon_on_cancel=True)


def _submit(task: JobTask, body: bytes, caller: Caller, model: str | None, key: str | None) -> Response:
    fields = read_object(body)
    if key is not None and fields.setdefault("idempotency_key", key) != key:
        sentence = "field idempotency_key: is another one than the header Idempotency-Key; give one of them"
        raise Problem(422, "invalid", sentence, field="idempotency_key")
    order = _prepare(task, fields, caller, model)
    _check_budget(order, uses_of(order.job.user_id))
    with _in_doubt():
        job = place(order.job)
    accepted = _publish(order, job)
    return answer(accepted, 202, Location=accepted["url"])


@contextmanager
def _in_doubt() -> Iterator[None]:
    """A commit whose answer is lost may have been made all the same, and then the job runs."""
    try:
        yield
    except SQLAlchemyError as error:
        raise problems.away(
            f"the database gives no usable answer ({type(error).__name__}), so what was submitted may have been "
            "accepted or not; GET jobs/ tells, and the same Idempotency-Key accepts it once only"
        ) from None


def _prepare(task: JobTask, fields: dict[str, Any], caller: Caller, model: str | None) -> Order:
    if model is not None:
        fields.setdefault("x_llm_model", model)
    if caller.user_id is not None and str(fields.setdefault("user_id", caller.user_id)) != caller.user_id:
        raise Problem(403, "forbidden", "field user_id: the token is bound to another user", field="user_id")
    return prepare(task.kind, uuid(), fields)


def _or_problem(
    fields: Any, caller: Caller, model: str | None, uses: dict[str | None, list[ScopeUse]]
) -> Order | Problem:
    """One job of a batch; `uses` keeps how the budgets of each user stand."""
    kind = fields.pop("kind", None) if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        return Problem(422, "invalid", f"field kind: give one of {', '.join(KINDS)}", field="kind")
    try:
        order = _prepare(KINDS[kind], fields, caller, model)
        user = order.job.user_id
        if user not in uses:
            uses[user] = uses_of(user)
        _check_budget(order, uses[user])
    except InvalidJob as error:
        return problems.invalid_job(error)
    except Problem as refused:
        return refused
    return order


def _check_budget(order: Order, uses: list[ScopeUse]) -> None:
    """Raise a 402 for a job that certainly has no room. One that was accepted before is none that is refused now."""
    if (exceeded := foresee(order, uses)) is None:
        return
    key = order.job.idempotency_key
    with read() as session:
        if key is None or jobs.by_idempotency_key(session, order.job.user_id, key) is None:
            raise problems.over_budget(exceeded)


def _publish(order: Order, job: Job) -> dict[str, Any]:
    """Send the job's id on its way, unless it was there already; what the submitter is told. The job is in SQL, so
    whatever the broker says now is no error: the sweeper publishes it later."""
    if job is order.job and not _broker.lasts:
        waited_for.set(False)
        try:
            KINDS[job.kind].send(job.id, queue=job.queue, retry_policy=RETRY_ONCE)
        except Exception as error:  # each transport has errors of its own
            _broker.begin()
            logger.warning("the sweeper will publish what is accepted now: %s", type(error).__name__)
    return {"id": job.id, "state": str(job.state), "url": f"/api/v1/jobs/{job.id}/"}


def _visible(job_id: str, caller: Caller) -> Job:
    """The job of that id; a 404 also for another user's, where the caller is bound to one."""
    if job_id.isprintable():
        with read() as session:
            job = session.get(Job, job_id)
        if job is not None and caller.user_id in (None, job.user_id):
            return job
    raise Problem(404, "not_found", "there is no such job")


def _show(job_id: str, caller: Caller) -> Response:
    job = _visible(job_id, caller)
    with read() as session:
        attempts = jobs.attempts_of(session, job.id)
        cost = sum(attempt.cost_nano for attempt in attempts)
    shown = {
        **views.job_row(job),
        "cost_usd": cost / 10**9,
        "attempts": [views.attempt_row(attempt) for attempt in attempts],
        "problem": problems.of(job),
    }
    if job.pruned_at is not None:
        return answer({**shown, "result": None})
    if job.state == JobState.SUCCEEDED and isinstance(KINDS[job.kind].kind, Embed):
        return StreamingResponse(with_vectors(job, shown), media_type="application/json")
    result = KINDS[job.kind].result_of(job) if job.state == JobState.SUCCEEDED else None
    return answer({**shown, "result": result})


def _place(cursor: str) -> tuple[datetime, str]:
    moment, job_id = unpack(cursor, str, str)
    try:
        created_at = datetime.fromisoformat(moment)
        if created_at.tzinfo is not None and 2000 <= created_at.year < 2200:
            return created_at, job_id
    except ValueError:
        pass
    raise Problem(422, "parameter", "cursor: give `next` of the page before, unchanged", field="cursor")
