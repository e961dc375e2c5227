"""What beat sends reaches its worker, whatever else goes on."""

import celeryconfig
from cli.stack import LEAST
from worker.queues import MAINTENANCE, QUEUES


def test_clocks_that_are_seconds_apart_stop_no_maintenance() -> None:
    """Celery warns of clocks that are 16 s apart; rounds of beat expire by the sender's clock, on the reader's."""
    from tasks.maintenance import EXPIRES_S

    expiries = [entry["options"]["expires"] for entry in celeryconfig.beat_schedule.values()]
    assert min(*expiries, EXPIRES_S) >= 60


def test_several_rounds_of_maintenance_can_run_at_once() -> None:
    """A report that takes a minute, and a mail server for each channel that does not answer."""
    assert set(LEAST) == set(QUEUES) and LEAST[MAINTENANCE] >= 8
