"""`paymaster job`, `jobs` and `strategies`."""

import json
from datetime import timedelta

from api import views
from budget.money import format_usd, nano_to_usd
from cli import output
from cli.find import one_job
from cli.inputs import one_of
from cli.output import console, print_json
from db import jobs
from db.models import Attempt, Job, JobState, utc_now
from db.retention import sentence
from db.session import read
from db.statistics import by_strategy


def show_job(job_id: str, *, as_json: bool) -> None:
    """One job with its attempts and result. The start of an id is enough."""
    with read() as session:
        job = one_job(session, job_id)
        attempts = jobs.attempts_of(session, job.id)
        if as_json:
            print_json(
                {
                    **views.job_row(job),
                    "attempts": [views.attempt_row(attempt) for attempt in attempts],
                    "result": result_of(job),
                    "note": sentence(job) if job.pruned_at is not None else None,
                }
            )
            return
        console.print(output.jobs_table([job], f"Job {job.id}"))
        columns = ("#", "model", "reason", "tokens", "reserved", "cost", "time", "state")
        rows = [
            (
                a.number, a.model_name, a.error or a.reason, a.tokens_used, format_usd(a.reserved_nano),
                format_usd(a.cost_nano), _times(a), a.state,
            )
            for a in attempts
        ]  # fmt: skip
        console.print(output.folded("Attempts", columns, rows, right=("tokens", "reserved", "cost", "time")))
        if job.pruned_at is not None:
            console.print(f"{sentence(job)[0].upper()}{sentence(job)[1:]}.", highlight=False)
        if job.error:
            console.print(job.error, highlight=False)
        if job.result is not None:
            console.print_json(json.dumps(job.result))


def _times(attempt: Attempt) -> str:
    """How long the job waited for a worker, what we took then, and what the provider took."""
    times = {"waited": attempt.queue_time_ms, "own": attempt.overhead_ms, "call": attempt.processing_time_ms}
    return "\n".join(f"{name} {ms / 1000:.2f} s" for name, ms in times.items() if ms is not None) or "-"


def retry_job(job_id: str, *, as_json: bool) -> None:
    """Let a job that is over run once more."""
    from cli.budget import whoami
    from worker.again import run_again
    from worker.app import app

    with read() as session:
        job_id = one_job(session, job_id).id
    run_again(app, job_id, whoami())
    if as_json:
        print_json({"id": job_id, "state": "queued"})
    else:
        console.print(f"Job {job_id} is queued again.", highlight=False)


def result_of(job: Job) -> object:
    """The result as `AsyncResult.get()` gives it, None if there is none yet."""
    if job.state != JobState.SUCCEEDED or job.pruned_at is not None:
        return None
    from celery.result import AsyncResult

    import tasks  # noqa: F401  # it knows how vectors are written down
    from worker.app import app

    return AsyncResult(job.id, app=app).get(timeout=10)


def show_jobs(
    *, state: str | None, kind: str | None, user_id: str | None, api: str | None, limit: int, as_json: bool
) -> None:
    """The latest jobs that match."""
    from tasks import KINDS

    one_of("state", state, [str(known) for known in JobState])
    one_of("kind of job", kind, [*KINDS])
    with read() as session:
        found = jobs.find(session, state=state, kind=kind, user_id=user_id, api=api, limit=limit)
        if as_json:
            print_json([views.job_row(job) for job in found])
        else:
            title = f"{output.counted(len(found), 'job')}, newest first" if found else "Jobs"
            console.print(output.jobs_table(found, title))


def show_strategies(*, days: int, as_json: bool) -> None:
    """What jobs of the last days came to under each strategy."""
    with read() as session:
        found = by_strategy(session, utc_now() - timedelta(days=days))
    rows = [
        {
            "strategy": row.strategy,
            "kind": row.kind,
            "jobs": row.jobs,
            "success_rate": round(int(row.succeeded) / row.jobs, 4),
            "fallback_rate": round(int(row.fallbacks) / row.jobs, 4),
            "cost_per_job_usd": nano_to_usd(int(row.cost) // row.jobs),
            "quality": None if row.quality is None else round(row.quality, 4),
            "p95_ms": row.p95_ms,
        }
        for row in found
    ]
    if as_json:
        print_json(rows)
        return
    columns = ("strategy", "kind", "jobs", "success", "fallback", "cost per job", "quality", "p95")
    table = [
        (
            row["strategy"], row["kind"], row["jobs"], f"{row['success_rate']:.2%}", f"{row['fallback_rate']:.2%}",
            f"${row['cost_per_job_usd']:.6f}", "-" if row["quality"] is None else f"{row['quality']:.3f}",
            "-" if row["p95_ms"] is None else f"{row['p95_ms'] / 1000:.2f} s",
        )
        for row in rows
    ]  # fmt: skip
    console.print(output.table(f"Strategies, last {days} days", columns, table, right=columns[2:]))
