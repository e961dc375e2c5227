"""The stack that the longer benches run on: the servers, a worker for all kinds of jobs, one for maintenance, beat and
the API."""

import sys
from functools import partial

from cli.stack import Stack

JOB_QUEUES = "parse,generate,generate-premium,embed"


class Small(Stack):
    """A stack whose jobs all meet in one worker process, `jobs`."""

    def _start_celery(self) -> None:
        self.start_celery("jobs", JOB_QUEUES, 100)
        self.start_celery("maintenance", "maintenance", 8)
        self.start("beat", sys.executable, "-m", "celery", "--quiet", "-A", "worker.app", "beat")
        self.start("api", sys.executable, "-m", "cli", "api", "--port", "0", "--json")
        self.environment["PAYMASTER_API"] = str(self._wait("api", partial(self._url_of, "api")))

    def start_celery(self, name: str, queues: str, concurrency: int) -> int:
        """A worker of these queues; its pid."""
        return self.start(
            name,
            sys.executable, "-m", "celery", "--quiet", "-A", "worker.app", "worker", "-Q", queues,
            "-n", f"{name}@%h", "-c", str(concurrency), "--without-mingle", "--without-gossip",
            environment={"METRICS_PORT": "0"},
        )  # fmt: skip
