"""How a job is accepted: bound, checked and written to SQL, or refused without a trace."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from db.jobs import CLAIM_WITHIN_S
from db.models import Job, JobState, utc_now
from db.once import once_per_environment
from db.session import read
from tasks.kinds import Embed, Generate, Parse
from worker.errors import InvalidJob
from worker.submit import accept, accept_invalid, due_in, fields_of, place, place_all

POSTING = {"job_description": "A baker."}
CV = {"job_data": {"raw_job_description": "A baker."}}


@pytest.fixture
def _database(environment: None) -> None:
    """An empty database."""


needs_database = pytest.mark.usefixtures("_database")


def rows() -> int:
    with read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def row(job_id: str) -> Job:
    with read() as session:
        return session.get_one(Job, job_id)


@pytest.mark.parametrize(
    ("kind", "args", "kwargs", "fields"),
    [
        (Parse(), ("text", "company", "title"), {}, {"job_description": "text", "company_name": "company",
                                                   "role_title": "title"}),
        (Parse(), ("text",), {"user_id": 7}, {"job_description": "text", "user_id": 7}),
        (Parse(), (), POSTING, POSTING),
        (Parse(), None, None, {}),
        (Parse(), ["text"], {}, {"job_description": "text"}),
        (Generate(), ({}, [], {}), {}, {"job_data": {}, "artifacts": [], "preferences": {}}),
        (Embed(), (["a"], "similarity"), {}, {"texts": ["a"], "use_case": "similarity"}),
    ],
)  # fmt: skip
def test_arguments_are_bound_as_a_call_would_bind_them(kind: Any, args: Any, kwargs: Any, fields: Any) -> None:
    assert fields_of(kind, args, kwargs) == fields


@pytest.mark.parametrize(
    ("args", "kwargs", "sentence"),
    [
        (("a", "b", "c", "d"), {}, "parse: takes at most 3 positional arguments, got 4"),
        (("a",), {"job_description": "b"}, "parse: field job_description was given twice"),
        (("a", "b"), {"company_name": "c"}, "parse: field company_name was given twice"),
    ],
)
def test_arguments_that_cannot_be_bound_are_refused(args: Any, kwargs: Any, sentence: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        fields_of(Parse(), args, kwargs)
    assert str(refused.value) == sentence


def test_binding_leaves_the_callers_arguments_as_they_are() -> None:
    kwargs = {"user_id": 7}
    fields_of(Parse(), ("text",), kwargs)
    assert kwargs == {"user_id": 7}


@needs_database
def test_an_accepted_job_is_in_sql_with_queue_and_due_time() -> None:
    before = utc_now()
    returned = accept(Parse(), "j1", {**POSTING, "user_id": 7, "api": "keywords"}, due_in_s=100)
    job = row("j1")
    assert (job.id, job.kind, job.state, job.queue) == ("j1", "parse", JobState.QUEUED, "parse")
    assert (job.user_id, job.api, job.runner, job.lease_until) == ("7", "keywords", None, None)
    assert job.payload == {**POSTING, "user_id": "7", "api": "keywords", "on_budget": "downgrade"}
    assert job.due_at is not None
    assert 0 <= (job.due_at - before).total_seconds() - 100 - CLAIM_WITHIN_S < 10
    assert (returned.id, returned.queue) == ("j1", "parse")
    assert (job.total_cost_nano, job.result, job.finished_at) == (0, None, None)


OPUS = "claude-opus-4-1-20250805"


@needs_database
@pytest.mark.parametrize(
    ("kind", "fields", "queue"),
    [
        (Parse(), POSTING, "parse"),
        (Parse(), {**POSTING, "model": OPUS}, "parse"),
        (Generate(), CV, "generate"),
        (Generate(), {**CV, "model": OPUS}, "generate-premium"),
        (Generate(), {**CV, "strategy": "quality_optimized"}, "generate-premium"),
        (Generate(), {**CV, "strategy": "quality_optimized", "model": "gpt41-mini"}, "generate"),
        (Generate(), {**CV, "x_llm_model": OPUS}, "generate"),  # headers are not honoured unless switched on
        (Embed(), {"texts": ["a"]}, "embed"),
    ],
)
def test_the_queue_is_that_of_the_jobs_tier(kind: Any, fields: dict[str, Any], queue: str) -> None:
    assert accept(kind, "j", fields, due_in_s=0).queue == queue
    assert row("j").queue == queue


@needs_database
def test_a_header_that_is_honoured_decides_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_LLM_MODEL_HEADER", "true")
    assert accept(Generate(), "j", {**CV, "x_llm_model": OPUS}, due_in_s=0).queue == "generate-premium"


@needs_database
@pytest.mark.parametrize("header", ["gpt-9", "text-embedding-3-small", "'; DROP TABLE jobs"])
def test_a_header_is_refused_where_it_is_honoured_and_otherwise_not_looked_at(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert accept(Parse(), "j", {**POSTING, "x_llm_model": header}, due_in_s=0).queue == "parse"
    monkeypatch.setenv("ENABLE_LLM_MODEL_HEADER", "true")
    once_per_environment.forget_all()
    with pytest.raises(InvalidJob, match=r"^parse: X-LLM-Model: the given name is ") as refused:
        accept(Parse(), "j2", {**POSTING, "x_llm_model": header}, due_in_s=0)
    assert repr(header) not in str(refused.value) and "DROP" not in str(refused.value)
    assert rows() == 1


@needs_database
def test_a_model_that_is_not_allowed_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODEL_ALLOWED_KEYWORDS", "gpt41-mini,gpt-4o")
    once_per_environment.forget_all()
    sentence = (
        r"^parse: model: claude\S+ is not allowed for the API keywords; allowed chat models: gpt-4.1-mini, gpt-4o$"
    )
    with pytest.raises(InvalidJob, match=sentence):
        accept(Parse(), "j", {**POSTING, "api": "keywords", "model": OPUS}, due_in_s=0)
    assert rows() == 0
    accept(Parse(), "j", {**POSTING, "api": "keywords", "model": "gpt-4o"}, due_in_s=0)
    accept(Parse(), "j2", {**POSTING, "model": OPUS}, due_in_s=0)
    assert rows() == 2


@needs_database
def test_the_split_decides_the_queue_of_a_users_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_SPLIT_TEST", "experimental=100")
    once_per_environment.forget_all()
    assert accept(Generate(), "j", {**CV, "user_id": 7}, due_in_s=0).queue == "generate-premium"
    assert accept(Generate(), "j2", CV, due_in_s=0).queue == "generate"


def deep(levels: int) -> dict[str, Any]:
    outer: dict[str, Any] = {}
    for _ in range(levels):
        outer = {"a": outer}
    return outer


REFUSED = [
    (Parse(), {}, "parse: field job_description is missing"),
    (Parse(), {**POSTING, "api_key": "SECRET"}, "parse: field api_key is not known"),
    (Parse(), {**POSTING, "model": "gpt-9"}, "parse: model: 'gpt-9' is not in the model registry"),
    (Parse(), {**POSTING, "model": "text-embedding-3-small"}, "is no chat model"),
    (Embed(), {"texts": ["a"], "model": "gpt-4o"}, "embed: model: 'gpt-4o' is no embedding model"),
    (Generate(), {**CV, "strategy": "cheapest"}, "generate: strategy: 'cheapest' is unknown"),
    (Generate(), {"job_data": {}}, "generate: field job_data.raw_job_description: is missing"),
    (Embed(), {"texts": []}, "embed: field texts: "),
    (Embed(), {"texts": ["a", "w " * 8192]}, "embed: field texts.1: has 8192 words"),
    (Generate(), {"job_data": {**CV["job_data"], "deep": deep(400)}}, "nested too deeply"),
    (Generate(), {**CV, "preferences": deep(900)}, "nested too deeply"),
]


@needs_database
@pytest.mark.parametrize(("kind", "fields", "sentence"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
@pytest.mark.parametrize("flag", ["true", "false"])
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    kind: Any, fields: dict[str, Any], sentence: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENABLE_LLM_MODEL_OVERRIDE", flag)
    monkeypatch.setenv("ENABLE_LLM_MODEL_HEADER", flag)
    with pytest.raises(InvalidJob) as refused:
        accept(kind, "j", fields, due_in_s=0)
    assert sentence in str(refused.value)
    assert "SECRET" not in str(refused.value)
    assert rows() == 0


@needs_database
@pytest.mark.parametrize("job_id", ["", "x" * 65, "a\nb"])
def test_a_task_id_of_the_wrong_length_is_refused(job_id: str) -> None:
    with pytest.raises(InvalidJob, match="a task id has 1 to 64 printable characters"):
        accept(Parse(), job_id, POSTING, due_in_s=0)
    assert rows() == 0


@needs_database
def test_a_second_job_of_the_same_id_is_refused_and_the_first_stands() -> None:
    accept(Parse(), "x" * 64, POSTING, due_in_s=0)
    with pytest.raises(InvalidJob, match=r"^generate: there is a job with the id x{64} already$"):
        accept(Generate(), "x" * 64, CV, due_in_s=0)
    assert row("x" * 64).payload["job_description"] == "A baker."
    assert rows() == 1


@needs_database
def test_a_message_that_comes_twice_finds_the_job_that_is_there() -> None:
    accept(Parse(), "j", POSTING, due_in_s=0)
    found = accept(Parse(), "j", {"job_description": "Another."}, due_in_s=0, again=True)
    assert found.payload["job_description"] == "A baker."
    assert rows() == 1


@needs_database
def test_a_row_that_sql_refuses_is_no_job_that_is_there_already() -> None:
    refused = Job(id="j", kind="parse", state=JobState.QUEUED, queue=None, payload={})
    with pytest.raises(InvalidJob, match=r"^parse: the job could not be written$"):
        place(refused, again=True)
    assert rows() == 0


@needs_database
def test_of_many_rows_one_that_is_there_already_is_refused_alone() -> None:
    made = [Job(id=job_id, kind="parse", state=JobState.QUEUED, queue="parse", payload={}) for job_id in "aba"]
    first, second, again = place_all(made)
    assert (first, second) == (made[0], made[1])
    assert isinstance(again, InvalidJob) and "there is a job with the id a already" in str(again)
    assert rows() == 2


@needs_database
def test_an_invalid_message_is_kept_as_a_failed_job_and_harms_no_other() -> None:
    accept_invalid(Embed(), "j", "embed: field texts is missing")
    job = row("j")
    assert (job.state, job.error_code, job.error) == (JobState.FAILED, "invalid", "embed: field texts is missing")
    assert (job.queue, job.payload, job.due_at) == ("embed", {}, None)
    assert job.finished_at is not None
    for unkeepable in ("x" * 65, "a\nb"):
        accept_invalid(Embed(), unkeepable, "embed: field texts is missing")
    assert rows() == 1, "its sender learns it from the result"
    accept(Parse(), "good", POSTING, due_in_s=0)
    accept_invalid(Parse(), "good", "parse: whatever")
    assert row("good").state == JobState.QUEUED


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, 0), ({"countdown": 30}, 30), ({"countdown": 1.5}, 1.5), ({"countdown": None, "eta": None}, 0)],
)
def test_a_countdown_is_when_the_job_is_due(options: dict[str, Any], seconds: float) -> None:
    assert due_in(options) == seconds


def test_an_eta_is_when_the_job_is_due_in_any_zone() -> None:
    moment = utc_now() + timedelta(seconds=60)
    local = moment.astimezone(datetime.now().astimezone().tzinfo).replace(tzinfo=None)
    for eta in (moment, moment.astimezone(), local):
        assert 50 < due_in({"eta": eta}) <= 60
    assert due_in({"eta": datetime.now(UTC) - timedelta(days=1)}) == 0
