"""What the routes answer, for OpenAPI. The answers themselves are made in `views` and the routes, without a second
pass through these; the tests hold one against the other."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from db.models import AttemptState, JobState
from tasks import KINDS
from worker.task import JobTask

Usd = Annotated[float, Field(ge=0, description="USD, exact to a nano-dollar.")]
When = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """An error, by RFC 9457. Further members depend on the type."""

    type: str = Field(description="`urn:problem-type:paymaster:` and a word for programs.")
    title: str
    status: int
    detail: str = Field(description="One sentence for people, which names the field.")
    field: str | None = Field(None, description="The field or parameter at fault.")
    scope: str | None = Field(None, description="The budget at fault: daily, monthly, user or job.")


class Accepted(_Shown):
    """A job that was accepted, or that has the idempotency key already."""

    id: str
    state: JobState
    url: str


class Attempt(_Shown):
    """One call to a provider."""

    id: str
    number: int
    part: int
    model: str
    state: AttemptState
    reason: str
    tokens: int
    reserved_usd: Usd
    cost_usd: Usd
    cost_basis: str | None
    queue_time_ms: int | None
    overhead_ms: int | None
    milliseconds: int | None
    error: str | None


class JobRow(_Shown):
    """A job without its attempts and its result."""

    id: str
    kind: str
    queue: str
    state: JobState
    user_id: str | None
    api: str | None
    cost_usd: Usd = Field(description="What it has cost so far.")
    error_code: str | None
    error: str | None
    created_at: When
    started_at: When | None
    finished_at: When | None
    pruned_at: When | None = Field(description="Since when its input and result are not kept any more.")
    processing_metadata: dict[str, Any] | None


class Job(JobRow):
    """A job."""

    attempts: list[Attempt]
    result: dict[str, Any] | list[Any] | None
    problem: Problem | None = Field(description="Why a failed job has failed.")


class Jobs(_Shown):
    """A page of jobs, newest first."""

    jobs: list[JobRow]
    next: str | None = Field(description="The `cursor` of the next page.")


def _of_a_batch(task: JobTask) -> type[BaseModel]:
    """The payload of a kind of job, with the kind's name."""
    name: Any = Literal[task.kind.name]
    return create_model(f"{task.kind.name.title()}Job", __base__=task.kind.payload_type, kind=name)


class Batch(_Shown):
    """Many jobs at once."""

    if TYPE_CHECKING:
        jobs: list[BaseModel]
    else:
        jobs: list[Annotated[reduce(or_, map(_of_a_batch, KINDS.values())), Field(discriminator="kind")]] = Field(
            min_length=1
        )


class Outcome(_Shown):
    """What became of one job of a batch: a job, or a problem."""

    status: int
    job: Accepted | None = None
    problem: Problem | None = None


class Outcomes(_Shown):
    """One outcome per job, in their order."""

    jobs: list[Outcome]


class Figures(_Shown):
    """Means over the calls that succeeded; null where nothing was measured."""

    avg_processing_time_ms: float | None
    avg_cost_per_generation: Usd
    avg_quality_score: float | None
    success_rate: float | None = Field(description="The share of the calls that succeeded.")
    total_generations: int = Field(description="Jobs that had a call.")


class Recommendations(_Shown):
    """Models by id."""

    cost_leader: str
    quality_leader: str
    balanced_choice: str


class Performance(_Shown):
    """How models, or strategies, did."""

    model_performance: dict[str, Figures] | None = None
    strategy_performance: dict[str, Figures] | None = None
    recommendations: Recommendations


class AvailableModels(_Shown):
    chat: list[str]
    embedding: list[str]


class Settings(_Shown):
    """What may be chosen, and what is."""

    current_strategy: str
    available_strategies: list[str]
    available_models: AvailableModels


class NewSettings(_Shown):
    """The strategy of jobs that name none, from now on; `default` is the environment's."""

    strategy: str


class Breaker(_Shown):
    state: Literal["closed", "open", "half_open"]
    until: When | None
    calls: int
    failures: int


class Price(BaseModel):
    """USD per million tokens."""

    input: Usd
    output: Usd


class Model(BaseModel):
    """A model of the registry; docs/models.md says what an entry holds."""

    id: str
    kind: Literal["chat", "embedding"]
    provider: str
    price: Price
    context: int
    breaker: Breaker | None


class Models(_Shown):
    models: list[Model]


class Scope(_Shown):
    """How one budget stands; a limit of null is none."""

    scope: Literal["daily", "monthly", "user"]
    limit_usd: Usd | None
    spent_usd: Usd
    reserved_usd: Usd
    left_usd: Usd | None
    resets_at: When | None


class Budgets(_Shown):
    budgets: list[Scope]


class DailyCost(_Shown):
    date: str
    user_id: str | None
    model_name: str
    task_type: str
    api: str | None
    strategy: str
    total_cost_usd: Usd
    generation_count: int
    avg_cost_per_generation: Usd | None
    attempts: int
    failures: int
    input_tokens: int
    output_tokens: int


class DailyCosts(_Shown):
    costs: list[DailyCost]
    next: str | None


class Delivery(_Shown):
    channel: str
    tries: int
    sent_at: When | None
    error: str | None


class Alert(_Shown):
    id: int
    kind: str
    subject: str
    period: str
    threshold: str
    message: str
    created_at: When
    cleared_at: When | None
    deliveries: list[Delivery]


class Alerts(_Shown):
    alerts: list[Alert]
    next: str | None


class ReportRow(_Shown):
    day: str
    written_at: When
    url: str


class Reports(_Shown):
    """The days whose reports are written."""

    reports: list[ReportRow]
    next: str | None


class Report(BaseModel):
    """What a day cost; docs/report.md says what each figure means. Beside every `…_nano` stands the same in USD."""

    day: str
    zone: str
    ended: bool
    written_at: When
    month_nano: int
    month_usd: str
    total: dict[str, Any]


class Health(_Shown):
    status: Literal["alive"]


class Readiness(_Shown):
    """Each part: `ok`, or what is missing."""

    ready: bool
    redis: str
    database: str
    broker: str
    workers: str
