"""What is said of a budget before a job is queued must be certain."""

import uuid
from typing import Any

import pytest

from budget.ledger import ScopeUse
from selection.registry import load_registry
from tasks.kinds import Embed, Generate, Parse
from worker.attempt import worst_case
from worker.foresee import foresee, least_cost
from worker.kind import JobKind
from worker.submit import Order, prepare

pytestmark = pytest.mark.usefixtures("environment")

WORDS = "We look for a baker. "
JOBS: list[tuple[JobKind, dict[str, Any]]] = [
    (Parse(), {"job_description": "x"}),
    (Parse(), {"job_description": WORDS * 100, "company_name": "Forno"}),
    (Parse(), {"job_description": "a " * 90_000}),
    (Parse(), {"job_description": "中" * 5000, "strategy": "quality_optimized"}),
    (Generate(), {"job_data": {"raw_job_description": WORDS}, "artifacts": [{"a": 1}] * 12}),
    (Generate(), {"job_data": {"raw_job_description": "a\tb\n" * 2000}, "strategy": "experimental"}),
    (Embed(), {"texts": ["x"]}),
    (Embed(), {"texts": ["bread and rolls"] * 50, "use_case": "semantic_analysis"}),
]


def order(kind: JobKind, fields: dict[str, Any]) -> Order:
    return prepare(kind, uuid.uuid4().hex, fields)


@pytest.mark.parametrize(("kind", "fields"), JOBS, ids=[str(number) for number in range(len(JOBS))])
def test_no_call_reserves_less_than_is_foreseen(kind: JobKind, fields: dict[str, Any]) -> None:
    made = order(kind, fields)
    costs = [
        worst_case(model, request)
        for model in made.selection.candidates
        for request in kind.requests(made.payload, model)
    ]
    assert 0 < least_cost(made) <= min(costs)


def test_only_what_is_spent_stands_in_the_way() -> None:
    made = order(*JOBS[0])
    needed = least_cost(made)

    def use(limit: int | None, spent: int = 0, reserved: int = 0) -> ScopeUse:
        return ScopeUse("daily", limit, spent, reserved, 4_000_000_000)

    assert foresee(made, []) is None
    assert foresee(made, [use(None, 10**15)]) is None
    assert foresee(made, [use(10 * needed, 9 * needed, 9 * needed)]) is None
    exceeded = foresee(made, [use(10 * needed), use(10 * needed, 9 * needed + 1)])
    assert exceeded is not None
    assert (exceeded.code, exceeded.needed, exceeded.spent) == ("budget", needed, 9 * needed + 1)
    never = foresee(made, [use(needed - 1)])
    assert never is not None
    assert never.code == "budget_never_fits"
    for on_budget, refused in (("defer", False), ("reject", True), ("downgrade", True)):
        other = order(Parse(), {"job_description": "x", "on_budget": on_budget})
        assert (foresee(other, [use(0)]) is not None) == refused


def test_a_cap_that_no_model_can_keep_is_foreseen(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from db.once import once_per_environment

    path = tmp_path / "dear.toml"
    names = [model.id for model in load_registry().offered("chat")]
    path.write_text("".join(f'[models."{name}"]\nprice = {{ input = 900, output = 900 }}\n' for name in names))
    monkeypatch.setenv("MODEL_REGISTRY_FILE", str(path))
    once_per_environment.forget_all()
    exceeded = foresee(order(*JOBS[0]), [])
    assert exceeded is not None
    assert (exceeded.scope, exceeded.code, exceeded.resets_at) == ("job", "budget_never_fits", None)
    assert foresee(order(*JOBS[6]), []) is None
