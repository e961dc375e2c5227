"""The result of an embed job as a stream: it may be larger than what should be in memory."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

from sqlalchemy import select

from api.reading import plain
from db.models import Job, JobVectors
from db.session import read
from tasks.kinds import vector_items
from tasks.vectors import Vector

ITEMS_PER_CHUNK = 64


def with_vectors(job: Job, shown: dict[str, Any]) -> Iterator[str]:
    """The job as JSON with its vectors, of which no more than one request's are in memory."""
    mine = JobVectors.job_id == job.id
    with read() as session:
        parts = session.execute(
            select(JobVectors.part, JobVectors.count.label("texts")).where(mine).order_by(JobVectors.part)
        ).all()
    texts, index = sum(part.texts for part in parts), count()
    yield json.dumps(shown, default=plain)[:-1] + ', "result": ['
    separator = ""
    for part in parts:
        with read() as session:
            row = session.get_one(JobVectors, (job.id, part.part))
        chunk: list[str] = []
        for item in vector_items(row, texts, index, job.model_metadata or {}):
            chunk.append(json.dumps(item, default=Vector.tolist))
            if len(chunk) == ITEMS_PER_CHUNK:
                yield separator + ", ".join(chunk)
                separator, chunk = ", ", []
        if chunk:
            yield separator + ", ".join(chunk)
            separator = ", "
    yield "]}"
