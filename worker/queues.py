"""The queue of each kind of job, as `queues.toml` says. A file, because Celery's settings need the queues before any
task can be imported."""

import tomllib
from pathlib import Path

MAINTENANCE = "maintenance"
OF_KINDS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("queues.toml").read_text(encoding="utf-8"))
QUEUES = (*dict.fromkeys(queue for kind in OF_KINDS.values() for queue in kind.values()), MAINTENANCE)


def queue_of(kind: str, *, premium: bool = False) -> str:
    """Where jobs of this kind wait, on premium models or on others."""
    queues = OF_KINDS[kind]
    return queues.get("premium", queues["queue"]) if premium else queues["queue"]
