"""`paymaster demo`: a batch of jobs through a whole stack of its own, and the bill checked against the ledger."""

import json
import shutil
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table
from sqlalchemy import func, select

from api import views
from budget.money import format_usd
from cli import output
from cli.output import console, print_json
from cli.stack import Stack, StackError
from cli.up import interrupt_on_sigterm
from db.models import Attempt, Job, JobState
from db.session import read

JOBS_WITHIN_S = 120
# The first answers of one model are refused, so that a fallback is seen at work.
FAULTS = {"seed": 1, "rules": [{"model": "gpt-4o", "first": 1, "fault": "status", "status": 529}]}


def run_demo(*, as_json: bool, keep: Path | None) -> None:
    """Run it; exit status 1 if a job failed or the sums differ."""
    interrupt_on_sigterm()
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise StackError(f"{keep} is not empty; give --keep a new folder")
    home = keep or Path(tempfile.mkdtemp(prefix="paymaster-demo-"))
    started = time.monotonic()
    try:
        if not as_json:
            console.print("Starting: Redis-protocol server, simulator, five workers, beat …")
        with Stack(home, simulate=True, concurrency=16) as stack:
            simulator = stack.environment["PAYMASTER_SIMULATOR"]
            _request(f"{simulator}/faults", "PUT", FAULTS)
            ids = [*_submit_samples()]
            _watch(stack, ids, show=not as_json)
            ok = _report(ids, simulator, time.monotonic() - started, as_json=as_json)
    finally:
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)
    if not as_json:
        console.print("Everything that was started is stopped.")
    sys.exit(0 if ok else 1)


def _submit_samples() -> Iterator[str]:
    """Jobs of every kind, length and complexity, as an application would submit them."""
    from tasks import embed, generate, parse

    samples = json.loads(Path(__file__).with_name("samples.json").read_text())
    postings, artifacts = samples["postings"], samples["artifacts"]
    for number, posting in enumerate(postings):
        yield parse.delay(**posting, user_id=number % 3 + 1, api="keywords").id
    for number, posting in enumerate(postings):
        job_data = {"raw_job_description": posting["job_description"], "role_title": posting["role_title"]}
        some = artifacts[: (3 * number) % (len(artifacts) + 1)]
        preferences = {"tone": "creative"} if number % 3 == 2 else {}
        premium = {"strategy": "quality_optimized"} if number == 4 else {}
        yield generate.delay(
            job_data=job_data, artifacts=some, preferences=preferences, user_id=number % 3 + 1,
            api="resume_tailor", **premium,
        ).id  # fmt: skip
    yield embed.delay(texts=samples["texts"], user_id=1).id
    yield embed.delay(texts=samples["texts"][:10], use_case="semantic_analysis", user_id=2).id
    # more than one request's worth: the state is PROGRESS on the way
    yield embed.delay(texts=[f"{text} ({n})" for n in range(60) for text in samples["texts"]], user_id=3).id


def _watch(stack: Stack, ids: list[str], *, show: bool) -> None:
    """Show how the jobs come along until all are final."""
    deadline = time.monotonic() + JOBS_WITHIN_S
    live_terminal = show and console.is_terminal
    last = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            stack.check()
            found = _load(ids)
            if live_terminal:
                live.update(_progress(found), refresh=True)
            line = _progress_line(found)
            if show and not live_terminal and line != last:
                print(line, flush=True)
                last = line
            if all(JobState(job.state).final for job in found):
                return
            if time.monotonic() > deadline:
                raise StackError(f"the jobs did not end within {JOBS_WITHIN_S} s; rerun with --keep DIR for the logs")
            time.sleep(0.25)


def _load(ids: list[str]) -> list[Job]:
    with read() as session:
        found = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}
    return [found[job_id] for job_id in ids]


def _progress(found: list[Job]) -> Table:
    counts = Counter((job.queue, JobState(job.state)) for job in found)
    states = list(JobState)
    rows = []
    for queue in dict.fromkeys(job.queue for job in found):
        of_queue = [counts[queue, state] for state in states]
        rows.append((queue, *(number or "·" for number in of_queue)))
    names = [str(state) for state in states]
    return output.table("Jobs under way", ("tier", *names), rows, right=names)


def _progress_line(found: list[Job]) -> str:
    counts = Counter(str(job.state) for job in found)
    return "jobs: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _report(ids: list[str], simulator: str, seconds: float, *, as_json: bool) -> bool:
    """Print what became of the jobs and whether bill, ledger and metrics rows agree."""
    from budget.ledger import ledger

    found = _load(ids)
    bill = int(_request(f"{simulator}/bill", "GET")["cost_nano"])
    scopes = ledger().usage()
    with read() as session:
        rows = int(session.scalar(select(func.coalesce(func.sum(Attempt.cost_nano), 0))) or 0)
    sums = {"bill_nano_usd": bill, "ledger_nano_usd": scopes[0].spent, "metrics_rows_nano_usd": rows}
    equal = len(set(sums.values())) == 1
    succeeded = all(job.state == JobState.SUCCEEDED for job in found)
    if as_json:
        print_json(
            {
                "jobs": [views.job_row(job) for job in found],
                "budget": [views.scope_row(scope) for scope in scopes],
                **sums,
                "equal": equal,
                "seconds": round(seconds, 2),
            }
        )
        return equal and succeeded
    console.print(output.jobs_table(found, f"{len(found)} jobs"))
    console.print(output.budget_table(scopes, ledger().settings))
    verdict = "[green]equal to the nano-dollar[/]" if equal else "[red]NOT EQUAL[/]"
    console.print(
        f"Provider's bill {format_usd(bill)} · ledger {format_usd(scopes[0].spent)} · "
        f"metrics rows {format_usd(rows)}: {verdict}",
        highlight=False,
    )
    console.print(f"Start to end: {seconds:.1f} s.", highlight=False)
    return equal and succeeded


def _request(url: str, method: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or "null")
