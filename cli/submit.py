"""`paymaster submit`: files in, jobs out."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from api import views
from cli import output
from cli.inputs import (
    POSTING_FIELDS,
    InputError,
    generate_fields,
    one_of,
    parse_fields,
    read_artifacts,
    records,
    texts_of,
)
from cli.output import console, print_json
from db.models import Job, JobState
from db.session import read
from tasks import KINDS
from worker.errors import InvalidJob

POLL_S = 0.2


@dataclass(frozen=True)
class Options:
    """What the command line says about all jobs of one call."""

    common: dict[str, Any]
    artifacts: Path | None
    preferences: dict[str, Any]
    use_case: str | None


def run_submit(kind: str, paths: list[str], options: Options, *, wait: bool, as_json: bool) -> int:
    """Submit everything that is valid, and say of the rest what is wrong. Exit status 1 if anything was
    refused or failed."""
    one_of("kind of job", kind, [*KINDS])
    accepted: list[tuple[str, str]] = []
    refused = 0
    for where, fields in _fields(kind, paths, options):
        try:
            accepted.append((where, KINDS[kind].apply_async(kwargs={**options.common, **fields}).id))
        except InvalidJob as error:
            refused += 1
            output.errors.print(f"paymaster: {where}: {error}", highlight=False, markup=False)
    failed = 0
    if wait and accepted:
        found = wait_for([job_id for _, job_id in accepted], show=not as_json)
        failed = sum(job.state != JobState.SUCCEEDED for job in found)
    if as_json:
        print_json([_as_json(where, job_id, wait) for where, job_id in accepted])
    elif wait and accepted:
        console.print(output.jobs_table(found, output.counted(len(found), "job")))
        if len(found) == 1 and found[0].result is not None:
            console.print_json(json.dumps(found[0].result))
    else:
        for where, job_id in accepted:
            console.print(f"{job_id}  {where}", highlight=False, markup=False, soft_wrap=True)
    return 1 if refused or failed else 0


def _fields(kind: str, paths: list[str], options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, fields) of every job that the input asks for. What a kind makes of the input follows from its
    fields: all texts of one file are one job of a kind with `texts`; else each entry is one, a posting where the kind
    has `job_description` or `job_data`, or an object with its fields."""
    known = KINDS[kind].kind.positional
    if "texts" in known:
        texts: dict[str, list[str]] = {}
        for where, content in records(paths):
            texts.setdefault(where.rpartition(":")[0] or where, []).extend(texts_of(where, content))
        extra = {"use_case": options.use_case} if options.use_case else {}
        yield from ((where, {"texts": found, **extra}) for where, found in texts.items())
        return
    artifacts = read_artifacts(options.artifacts)
    for where, content in records(paths):
        for single in content if isinstance(content, list) else [content]:
            if "job_data" in known:
                yield where, generate_fields(where, single, artifacts, options.preferences)
            elif "job_description" in known:
                others = single.items() if isinstance(single, dict) else ()
                fields = {name: value for name, value in others if name in known and name not in POSTING_FIELDS}
                found = parse_fields(where, single)
                yield where, fields | {name: value for name, value in found.items() if name in known}
            elif isinstance(single, dict):
                yield where, single
            else:
                raise InputError(f"{where}: {kind} takes JSON objects with the fields {', '.join(known)}")


def wait_for(job_ids: list[str], *, show: bool) -> list[Job]:
    """Wait until all these jobs are final, with a progress bar, and return them in the same order."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=output.errors, disable=not show, transient=True) as progress:
        bar = progress.add_task("jobs", total=len(job_ids))
        while True:
            with read() as session:
                found = [session.get_one(Job, job_id) for job_id in job_ids]
            progress.update(bar, completed=sum(JobState(job.state).final for job in found))
            if all(JobState(job.state).final for job in found):
                return found
            time.sleep(POLL_S)


def _as_json(where: str, job_id: str, wait: bool) -> dict[str, Any]:
    if not wait:
        return {"source": where, "id": job_id}
    from cli.show import result_of

    with read() as session:
        job = session.get_one(Job, job_id)
        return {"source": where, **views.job_row(job), "result": result_of(job)}
