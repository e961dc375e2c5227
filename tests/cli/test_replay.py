"""`paymaster replay`: the same jobs priced under each strategy, without calling anyone."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from budget.money import Usage
from cli.replay import Replay, read_jobs, rows_of, run_replay
from selection.registry import load_registry
from selection.strategies import load_strategies
from tests.integration.conftest import SHARED
from worker.tokens import count_tokens

ANSWERS = {"parse": 430, "generate": 700}
pytestmark = pytest.mark.usefixtures("environment")
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder with real postings is not part of the project")


def file_of(folder: Path, *texts: str) -> str:
    path = folder / "postings.jsonl"
    path.write_text("".join(json.dumps({"title": "Baker", "text": text}) + "\n" for text in texts))
    return str(path)


def rows(path: str, names: list[str], against: str = "legacy", artifacts: Any = ()) -> dict[str, dict[str, Any]]:
    jobs, refused = read_jobs([path], list(artifacts), {})
    assert refused == 0
    return {row["name"]: row for row in rows_of(Replay(jobs, ANSWERS), names, against)}


def test_a_generation_is_a_parse_and_a_generate_job_priced_by_the_registry(tmp_path: Path) -> None:
    path = file_of(tmp_path, "bread " * 300)
    row = rows(path, ["balanced"])["balanced"]
    assert row["models"] == {"gpt-4o": 1, "gpt-4o-mini": 1}
    jobs, _ = read_jobs([path], [], {})
    cost = 0
    for job, model in zip(jobs, ("gpt-4o", "gpt-4o-mini"), strict=True):
        (request,) = job.kind.requests(job.payload, load_registry().models[model])
        tokens = sum(count_tokens(text, "o200k_base") for text in request.texts)
        cost += load_registry().models[model].rates.cost(Usage(tokens, ANSWERS[job.kind.name]))
    assert row["usd_per_1000_generations"] == Decimal(cost * 1000).scaleb(-9)
    assert row["output_tokens_per_generation"] == 430 + 700


def test_a_schema_is_counted_once_whether_it_is_in_the_prompt_or_beside_it(tmp_path: Path) -> None:
    found = rows(file_of(tmp_path, "bread " * 300), ["gpt-4", "gpt-3.5-turbo", "claude-3-haiku-20240307"])
    sizes = [found[name]["input_tokens_per_generation"] for name in ("gpt-4", "gpt-3.5-turbo")]
    assert (
        sizes[0] == sizes[1] == pytest.approx(found["claude-3-haiku-20240307"]["input_tokens_per_generation"], rel=0.05)
    )


def test_artifacts_the_tone_and_the_sizes_of_answers_count(tmp_path: Path) -> None:
    path = file_of(tmp_path, "bread " * 300)
    assert rows(path, ["balanced"], artifacts=[{"a": 1}] * 11)["balanced"]["models"] == {
        "gpt-4o": 1, "claude-sonnet-4-20250514": 1,
    }  # fmt: skip
    jobs, _ = read_jobs([file_of(tmp_path, "bread " * 501)], [], {"tone": "creative"})
    (row, *_) = rows_of(Replay(jobs, {"parse": 1, "generate": 10**6}), ["balanced"], "legacy")
    assert row["models"] == {"gpt-4o": 2}
    assert row["output_tokens_per_generation"] == 1 + 2500, "no answer is longer than it may be"


def test_savings_are_counted_against_any_strategy_or_model(tmp_path: Path) -> None:
    path = file_of(tmp_path, "bread " * 300, "rolls " * 10)
    found = rows(path, ["gpt41-mini"], against="gpt4o-2")
    assert list(found) == ["gpt41-mini", "gpt4o-2"]
    costs = [found[name]["usd_per_1000_generations"] for name in found]
    assert found["gpt41-mini"]["saving"] == pytest.approx(1 - float(costs[0] / costs[1]), abs=1e-4)
    assert found["gpt4o-2"]["saving"] == 0
    assert found["gpt41-mini"]["models"] == {"gpt-4.1-mini": 4}


def run(path: str, **changes: Any) -> int:
    options: dict[str, Any] = {
        "strategies": [], "models": [], "against": "legacy", "artifacts": [], "preferences": {}, "answers": ANSWERS,
        "as_json": True,
    }  # fmt: skip
    return run_replay([path], **{**options, **changes})


def test_all_strategies_are_shown_unless_some_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(tmp_path, "bread " * 300)
    assert run(path) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == list(load_strategies())
    assert run(path, strategies=["balanced"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["balanced", "legacy"]
    assert run(path, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "430 and 700 tokens" in shown.replace("\n", " ") and "saving against legacy" in shown


def test_the_settings_of_this_machine_do_not_change_the_strategies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of(tmp_path, "bread " * 300)
    run(path)
    plain = capsys.readouterr().out
    for name, value in (
        ("MODEL_SPLIT_TEST", "true"), ("MODEL_SELECTION_STRATEGY", "x"), ("LLM_MODEL_ALLOWED", "gpt-4o"),
        ("ENABLE_LLM_MODEL_OVERRIDE", "false"), ("LLM_MODEL_KEYWORDS", "gpt-4o"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    from db.once import once_per_environment

    once_per_environment.forget_all()
    run(path)
    assert capsys.readouterr().out == plain
    assert run(path, models=["gpt-4.1-mini"]) == 0


def test_a_generate_job_of_a_file_is_replayed_with_its_posting_and_without_its_wishes(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    job_data = {"raw_job_description": "bread " * 300, "role_title": "Baker"}
    path.write_text(json.dumps({"job_data": job_data, "model": "claude-opus-4-1-20250805", "artifacts": [{}] * 11}))
    assert rows(str(path), ["balanced"])["balanced"]["models"] == {"gpt-4o": 1, "claude-sonnet-4-20250514": 1}


def test_what_is_no_posting_is_named_and_the_status_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"text": "bread"}\n{"text": "a\\u0000b"}\n')
    assert run(str(path)) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["rows"][0]["generations"] == 1
    assert "p.jsonl:2: parse: field job_description: must not hold NUL" in told.err
    empty = tmp_path / "e.jsonl"
    empty.write_text("\n")
    assert run(str(empty)) == 1
    assert "no posting" in capsys.readouterr().err


@real
@pytest.mark.parametrize("resume", [False, True], ids=["without artifacts", "with a résumé"])
def test_on_the_real_postings_balanced_is_30_percent_cheaper_than_legacy(resume: bool) -> None:
    from cli.inputs import read_artifacts

    artifacts = read_artifacts(SHARED / "resume.json") if resume else []
    found = rows(str(SHARED / "job_postings.jsonl"), list(load_strategies()), artifacts=artifacts)
    assert found["balanced"]["generations"] == 64
    assert found["balanced"]["saving"] >= 0.30
    assert found["cost_optimized"]["usd_per_1000_generations"] < found["balanced"]["usd_per_1000_generations"]


@real
def test_on_the_real_postings_the_keywords_api_is_50_percent_cheaper() -> None:
    found = rows(str(SHARED / "job_postings.jsonl"), ["gpt41-mini"], against="gpt4o-2")
    assert found["gpt41-mini"]["saving"] >= 0.50
