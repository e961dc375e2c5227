"""A hundred threads of several processes cross a threshold at once, several beats look at it, everything is restarted:
one row, one message."""

import os
import subprocess
import sys

import pytest
from sqlalchemy import select

from budget.ledger import Ledger
from budget.money import usd_to_nano
from db.models import Alert, Delivery
from db.session import read
from tests.watch.conftest import Receiver

PROCESSES = 4

WORKER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from budget.alerts import refused
from budget.errors import BudgetExceeded
from budget.ledger import ledger
from db.alerts import raise_alert
from db.session import write
from db.writer import group_writer
from watch.alerts import deliver, look
from worker.refusals import _noted, note_refusal

day = ledger().usage()[0]
exceeded = BudgetExceeded("daily", day.limit, day.spent, 0, 1000, day.resets_at)
notice = refused(exceeded, ledger().settings.budget_timezone, None)
together = Barrier(25)
print("ready", flush=True)
sys.stdin.readline()

def cross(number):
    together.wait(60)
    _noted().clear()
    note_refusal(exceeded, None)
    if number % 2:
        group_writer().commit(lambda session: raise_alert(session, notice))
    else:
        with write() as session:
            raise_alert(session, notice)
    if number < 2:  # two beats in each process
        look()
        deliver("webhook")

with ThreadPoolExecutor(25) as pool:
    list(pool.map(cross, range(25)))
"""


@pytest.mark.parametrize("restarts", [1])
def test_one_row_and_one_message(warm_ledger: Ledger, webhook: Receiver, restarts: int) -> None:
    held = warm_ledger.reserve("a", usd_to_nano("49.999"), job_id="x", user_id=None, job_cap=None, lease_s=600)
    warm_ledger.settle("a", held.scope_keys, usd_to_nano("49.9999999"))
    for _ in range(1 + restarts):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
            )
            for _ in range(PROCESSES)
        ]
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == b"ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=150)
            assert worker.returncode == 0
    with read() as session:
        rows = [(row.subject, row.threshold) for row in session.scalars(select(Alert).order_by(Alert.threshold))]
        ways = sorted((way.channel, way.alert_id) for way in session.scalars(select(Delivery)))
    assert rows == [("daily", "0.8"), ("daily", "1")]
    assert len(ways) == 4
    assert sorted((told["subject"], told["threshold"]) for told in webhook.accepted) == rows
