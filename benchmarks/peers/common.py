"""What the peers' programs share: the request, which is what our parse job sends, and the table they write to."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

# the prompt and the schema of our own parse job, written by the bench: so the providers' work is the same
REQUEST: dict[str, Any] = json.loads(Path(os.environ["PEER_REQUEST"]).read_text())


class Base(DeclarativeBase):
    """The tables."""


class Call(Base):
    """A row for every call."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[str]
    model: Mapped[str]
    tokens: Mapped[int]
    cost_usd: Mapped[float]
    milliseconds: Mapped[float]
    created_at: Mapped[datetime]


def open_database() -> Engine:
    """An SQLite file of its own, in WAL, since a hundred threads write to it."""
    engine = create_engine(os.environ["PEER_DATABASE"], connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _wal(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")

    Base.metadata.create_all(engine)
    return engine


def messages(job_description: str) -> list[dict[str, str]]:
    """The chat messages."""
    posting = json.dumps({"job_description": job_description})
    return [{"role": "system", "content": REQUEST["system"]}, {"role": "user", "content": posting}]


def finish(engine: Engine, task_id: str, response: Any, milliseconds: float) -> dict[str, Any]:
    """Insert the row of a call; returns the answer's JSON."""
    with Session(engine) as session:
        session.add(
            Call(
                task_id=task_id,
                model=response.model,
                tokens=response.usage.total_tokens,
                cost_usd=response._hidden_params["response_cost"],
                milliseconds=milliseconds,
                created_at=datetime.now(UTC),
            )
        )
        session.commit()
    answer: dict[str, Any] = json.loads(response.choices[0].message.content)
    return answer
