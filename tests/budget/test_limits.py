"""Limits that are set while the system runs: they hold from the next admission, in every process, and survive a
lost Redis."""

import pytest

from budget.errors import BudgetExceeded
from budget.ledger import Ledger
from budget.limits import LimitError, set_limit
from budget.rebuild import rebuild_if_cold
from budget.scopes import WARM
from budget.settings import BudgetSettings
from db.changes import latest
from db.session import read
from tests.budget.conftest import hold


def test_a_limit_that_is_set_holds_for_the_next_admission_of_every_process(warm_ledger: Ledger) -> None:
    other = Ledger(warm_ledger.client, BudgetSettings())
    hold(other, "a1", 2 * 10**9)
    set_limit("daily", "2.5", "ann@desk")
    with pytest.raises(BudgetExceeded) as refused:
        hold(other, "a2", 10**9)
    assert (refused.value.scope, refused.value.limit, refused.value.reserved) == ("daily", 2_500_000_000, 2 * 10**9)
    set_limit("daily", "3", "ann@desk")
    hold(other, "a2", 10**9)
    assert [use.limit for use in other.usage(user_id="u1")] == [3 * 10**9, 1000 * 10**9, 5 * 10**9]


def test_unlimited_and_back_to_the_environments(warm_ledger: Ledger) -> None:
    set_limit("monthly", "unlimited", "ann@desk")
    set_limit("user", "0", "ann@desk")
    assert [use.limit for use in warm_ledger.usage(user_id="u1")] == [50 * 10**9, None, 0]
    with pytest.raises(BudgetExceeded, match="stopped by the user's daily budget"):
        hold(warm_ledger, "a1", 0)
    for scope in ("monthly", "user"):
        set_limit(scope, "default", "ann@desk")
    assert [use.limit for use in warm_ledger.usage(user_id="u1")] == [50 * 10**9, 1000 * 10**9, 5 * 10**9]


def test_it_survives_a_lost_redis(warm_ledger: Ledger) -> None:
    set_limit("daily", "7", "ann@desk")
    warm_ledger.client.flushall()
    rebuild_if_cold(warm_ledger, wait_s=0)
    assert warm_ledger.usage()[0].limit == 7 * 10**9


def test_limits_read_before_a_change_do_not_undo_it(warm_ledger: Ledger) -> None:
    warm_ledger.take_limits({}, 0)
    set_limit("daily", "7", "ann@desk")
    warm_ledger.take_limits({}, 0)  # a sweeper that had read SQL before
    assert warm_ledger.usage()[0].limit == 7 * 10**9


def test_a_cold_ledger_is_left_alone(warm_ledger: Ledger) -> None:
    warm_ledger.client.delete(WARM)
    set_limit("daily", "7", "ann@desk")
    assert not warm_ledger.client.exists(WARM)
    rebuild_if_cold(warm_ledger, wait_s=0)
    assert warm_ledger.usage()[0].limit == 7 * 10**9


def test_every_change_says_who_when_from_and_to(warm_ledger: Ledger) -> None:
    for limit in ("7", "8.50", "default"):
        set_limit("daily", limit, "ann@desk")
    with read() as session:
        found = [(c.what, c.subject, c.before, c.after, c.who) for c in latest(session, 10)]
    assert found == [
        ("limit", "daily", "8.50", None, "ann@desk"),
        ("limit", "daily", "7", "8.50", "ann@desk"),
        ("limit", "daily", None, "7", "ann@desk"),
    ]


@pytest.mark.parametrize(
    ("scope", "limit", "sentence"),
    [
        ("weekly", "5", "scope: 'weekly' has no limit to set; known: daily, monthly, user"),
        ("job", "5", "scope: 'job' has no limit to set"),
        ("daily", "-5", "limit: '-5' is no limit; give USD from 0"),
        ("daily", "plenty", "limit: 'plenty' is no limit"),
        ("daily", "", "limit: '' is no limit"),
    ],
)
def test_what_is_no_limit_changes_nothing(warm_ledger: Ledger, scope: str, limit: str, sentence: str) -> None:
    with pytest.raises(LimitError) as refused:
        set_limit(scope, limit, "ann@desk")
    assert sentence in str(refused.value)
    with read() as session:
        assert latest(session, 10) == []
