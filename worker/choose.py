"""Which models a job may run on here and now: selection, with what this process knows of settings and measurements."""

from typing import Any

from db.environment import read_settings
from db.models import utc_now
from selection.select import CountTokens, Selection, select
from selection.settings import SelectionSettings
from worker.kind import JobKind
from worker.measured import measured
from worker.strategy import current_strategy


def choose(kind: JobKind, payload: Any, job_id: str, count: CountTokens | None = None) -> Selection:
    """The selection for a job. `count` gives the input tokens of the job on a model; who only submits has none, and
    asks nobody for measurements: the worker decides again."""
    settings = read_settings(SelectionSettings)
    statistics = measured() if count is not None and settings.model_selection_adaptive else None
    return select(
        kind.facts(payload),
        settings,
        strategy=current_strategy(),
        statistics=statistics,
        job_id=job_id,
        today=utc_now().date(),
        count=count,
    )
