"""The tasks that beat runs."""

from typing import Any

from worker.app import app


# every five seconds: in Flower it would hide the jobs
@app.task(name="maintenance.sweep", ignore_result=True, send_events=False)
def sweep() -> Any:
    """Publish lost jobs again, settle what was left open, rebuild a ledger that was lost."""
    from worker.sweeper import sweep as sweep_once

    return sweep_once(app)
