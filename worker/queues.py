"""The queue of each kind of job, as `queues.toml` says. A file, because Celery's settings need the queues before any
task can be imported."""

import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

MAINTENANCE = "maintenance"
FILE = Path(__file__).with_name("queues.toml")


def read_queues(text: str) -> dict[str, dict[str, str]]:
    """The queues of each kind; `ValueError` names the kind and the field that is wrong."""
    try:
        kinds: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{FILE.name}: not valid TOML: {error}") from None
    for kind, queues in kinds.items():
        if not isinstance(queues, dict) or "queue" not in queues or queues.keys() - {"queue", "premium"}:
            raise ValueError(f"{FILE.name}: {kind}: give it `queue`, and `premium` if that is another, and no more")
        for field, name in queues.items():
            # a dot would be the end of a routing key of RabbitMQ's
            if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_-]*", name) or name == MAINTENANCE:
                raise ValueError(f"{FILE.name}: {kind}.{field}: {name!r} is no name such as parse, or is taken")
    return kinds


OF_KINDS = read_queues(FILE.read_text(encoding="utf-8"))
QUEUES = (*dict.fromkeys(queue for kind in OF_KINDS.values() for queue in kind.values()), MAINTENANCE)


def check_kinds(kinds: Collection[str]) -> None:
    """`ValueError` if the file is not about these kinds of job."""
    if odd := OF_KINDS.keys() ^ {*kinds}:
        raise ValueError(f"{FILE.name} is not about the same kinds of job as tasks.KINDS: {', '.join(sorted(odd))}")


def queue_of(kind: str, *, premium: bool = False) -> str:
    """Where jobs of this kind wait, on premium models or on others."""
    queues = OF_KINDS[kind]
    return queues.get("premium", queues["queue"]) if premium else queues["queue"]
