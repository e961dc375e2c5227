"""What the runner must know about a kind of job. `tasks/` has the kinds."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel
from sqlalchemy.orm import Session

from budget.money import Usage
from selection.registry import Model
from selection.rules import JobFacts


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat call that must answer with JSON of `schema`. `max_tokens` bounds the answer."""

    system: str
    user: str
    schema_name: str
    schema: dict[str, Any]
    temperature: float
    max_tokens: int

    @property
    def texts(self) -> list[str]:
        """All that a provider counts as input."""
        return [self.system, self.user, self.schema_text]

    @property
    def schema_text(self) -> str:
        """The schema as JSON: providers count it as input."""
        return json.dumps(self.schema)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """One embeddings call: `texts` in order, at most what a provider takes at once."""

    texts: list[str]
    max_tokens: int = 0


Request = ChatRequest | EmbedRequest


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors in the order of their texts: `count` x `dimensions` little-endian float32."""

    data: bytes
    count: int
    dimensions: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider brought: a chat's text or an embedding's vectors. `usage` is None where the provider's
    own count is missing or cannot be true."""

    content: str
    vectors: Vectors | None
    usage: Usage | None


class AnswerInvalid(Exception):
    """The answer is not what was asked for; the message says what is wrong, without the answer's text."""


class JobKind(ABC):
    """A kind of job: how its payload looks, what to ask a provider, and how to read the answer."""

    name: ClassVar[str]
    # whether the strategy's cap per generation applies
    capped: ClassVar[bool]
    # Whether its jobs share the event loop. It must be short work beside the calls: milliseconds, for the others wait
    # meanwhile.
    on_loop: ClassVar[bool] = False
    # what may be submitted, and an example of it
    payload_type: ClassVar[type[BaseModel]]
    example: ClassVar[dict[str, Any]]
    # the names of the fields, in the order in which they may be given by position
    positional: ClassVar[tuple[str, ...]]

    @abstractmethod
    def payload(self, fields: dict[str, Any]) -> Any:
        """The checked payload; `InvalidJob` names the first field at fault and what would be right."""

    @abstractmethod
    def facts(self, payload: Any) -> JobFacts:
        """What selection looks at."""

    @abstractmethod
    def requests(self, payload: Any, model: Model) -> list[Request]:
        """The calls that the job needs on this model, in order. Raises `InvalidJob` if it cannot run there."""

    def check_size(self, payload: Any, model: Model) -> None:  # noqa: B027  # most kinds have nothing to say
        """Raise `InvalidJob` for what is too large for the model, as far as a look tells; the worker counts."""

    @abstractmethod
    def read(self, payload: Any, answer: Answer) -> tuple[Any, float | None]:
        """The answer as this kind's data, and its quality 0-1 where there is one; `AnswerInvalid` if it is
        not what was asked for."""

    @abstractmethod
    def result(self, data: Any, metadata: dict[str, Any]) -> Any:
        """What `AsyncResult.get()` gives, from the job's data and its processing metadata."""

    @property
    def in_row(self) -> bool:
        """Whether all that an answer brings is kept in the job's own row."""
        return type(self).keep is JobKind.keep and type(self).load is JobKind.load

    def keep(self, session: Session, job_id: str, part: int, data: Any) -> Any:
        """Write what one request brought, in the transaction that records its outcome. Returns what belongs
        into the job's own row."""
        return data

    def load(self, session: Session, job_id: str, kept: Any) -> Any:
        """The data of a job that has succeeded, from what its row keeps."""
        return kept
