"""The tasks that beat runs."""

from typing import Any

from worker.app import app


@app.task(name="maintenance.sweep", ignore_result=True)
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
