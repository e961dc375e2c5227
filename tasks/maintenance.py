"""The tasks that beat runs."""

from typing import Any

from watch.settings import AlertSettings
from worker.app import app
from worker.checks import check_too

check_too(AlertSettings)

# as in celeryconfig: messages that nobody took in time are not run late, one upon the other
EXPIRES_S = 60


# every five seconds: in Flower it would hide the jobs
@app.task(name="maintenance.sweep", ignore_result=True, send_events=False)
def sweep() -> Any:
    """Publish lost jobs again, settle what was left open, rebuild a ledger that was lost."""
    from worker.sweeper import sweep as sweep_once

    return sweep_once(app)


@app.task(name="maintenance.roll_up", ignore_result=True)
def roll_up() -> Any:
    """Add up the attempts of every day that changed since the last time, into `model_cost_tracking`."""
    from watch.rollup import roll_up as roll_up_once

    return roll_up_once()


@app.task(name="maintenance.report", ignore_result=True)
def report() -> Any:
    """Write the daily cost reports that are due. Returns their days."""
    from watch.report import write_due

    return write_due()


@app.task(name="maintenance.prune", ignore_result=True)
def prune() -> int:
    """Remove prompts and results of jobs, and alerts, that ended RETENTION_DAYS ago. Returns how many jobs."""
    from db.environment import read_settings
    from db.retention import prune as prune_old
    from db.retention import prune_alerts
    from db.settings import DatabaseSettings

    days = read_settings(DatabaseSettings).retention_days
    if not days:
        return 0
    prune_alerts(days)
    return prune_old(days)


@app.task(name="maintenance.alert", ignore_result=True)
def alert() -> None:
    """Raise what the budgets give reason for, and let every channel send what it has to."""
    from watch.alerts import look

    for channel in look():
        deliver.apply_async((channel,), expires=EXPIRES_S)


@app.task(name="maintenance.objectives", ignore_result=True)
def objectives() -> Any:
    """Raise and clear what the last calls give reason for."""
    from watch.alerts import look_at_objectives

    return look_at_objectives()


@app.task(name="maintenance.deliver", ignore_result=True)
def deliver(channel: str) -> Any:
    """Send what is due on one channel."""
    from watch.alerts import deliver as deliver_once

    return deliver_once(channel)
