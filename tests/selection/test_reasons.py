"""The reasons are a closed vocabulary, and docs/selection.md has all of it."""

import re
from pathlib import Path

import pytest

from db.models import Attempt
from selection.reasons import Reason, after_failure, by_rule, is_reason
from selection.rules import JobFacts
from selection.select import select
from selection.settings import SelectionSettings
from selection.strategies import LONGEST_NAME, load_strategies
from worker.errors import BY_CODE

ROOT = Path(__file__).parents[2]
DOCUMENTED = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "selection.md").read_text(), re.MULTILINE)
LEVELS = ("low", "general", "high", "standard", "semantic")


def test_every_reason_is_documented_and_nothing_else_is() -> None:
    patterns = {by_rule("<strategy>", "<level>"), "<strategy>_strategy_<level>_use_case", after_failure("<code>")}
    assert sorted(DOCUMENTED) == sorted({*map(str, Reason), *patterns})


def test_every_reason_fits_its_column() -> None:
    longest = Attempt.__table__.c.reason.type.length  # type: ignore[attr-defined]
    rules = [by_rule("s" * LONGEST_NAME, level) for level in LEVELS]
    failures = [after_failure("c" * Attempt.__table__.c.error_code.type.length)]  # type: ignore[attr-defined]
    assert max(map(len, [*Reason, *rules, *failures])) <= longest


@pytest.mark.parametrize("code", [*BY_CODE, "http_503", "timeout", "invalid_answer", "no_connection", "no_address"])
def test_the_reasons_of_later_attempts_are_in_the_vocabulary(code: str) -> None:
    assert is_reason(after_failure(code))


@pytest.mark.parametrize(
    "text", ["", "because", "balanced_strategy_top_complexity", "balanced_strategy_low_use_case", "requested_model ",
             "fallback_after_", "fallback_after_<b>", "_strategy_low_complexity"],
)  # fmt: skip
def test_nothing_else_is(text: str) -> None:
    assert not is_reason(text)


@pytest.mark.parametrize("strategy", load_strategies())
def test_every_rung_of_every_strategy_gives_its_own_reason(strategy: str) -> None:
    settings = SelectionSettings()
    jobs = [
        *(JobFacts(kind="parse", words=words, strategy=strategy) for words in (10, 300, 1001)),
        *(JobFacts(kind="generate", artifacts=count, creative=True, strategy=strategy) for count in (0, 5, 11)),
        *(JobFacts(kind="embed", use_case=use, strategy=strategy) for use in ("similarity", "complex_matching")),
    ]
    found = [select(facts, settings).reason for facts in jobs]
    assert found == [by_rule(strategy, level) for level in
                     ("low", "general", "high", "low", "general", "high", "standard", "semantic")]  # fmt: skip
    assert all(map(is_reason, found))


def test_the_runner_writes_no_reason_of_its_own() -> None:
    text = (ROOT / "worker" / "run.py").read_text()
    assert not [reason for reason in Reason if f'"{reason}"' in text]
    assert 'f"fallback_' not in text
