"""The kinds of job: what each takes, what it asks a provider for, and how it reads the answer."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import count
from typing import Any, ClassVar, NoReturn

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import JobVectors
from selection.registry import Model, load_registry
from selection.rules import JobFacts, count_words
from tasks.answers import CVContent, ParsedPosting, read_answer
from tasks.payloads import EmbedPayload, GeneratePayload, ParsePayload, Payload, check
from tasks.prompts import GENERATE, PARSE, system_message, user_message
from tasks.quality import cv_quality
from tasks.vectors import split
from worker.errors import InvalidJob
from worker.kind import Answer, AnswerInvalid, ChatRequest, EmbedRequest, JobKind, Request, Vectors

# a character of a text takes at most so many bytes in the JSON of a message: \u0001
MOST_BYTES_PER_CHAR = 6


POSTING = "We look for a night baker in Porto. You knead, shape and bake; we pay fairly and close on Mondays."


@cache
def _schema(answer: type[BaseModel]) -> dict[str, Any]:
    return answer.model_json_schema()


@cache
def _fixed_bytes(prompt: str, answer: type[BaseModel]) -> int:
    """No less than what a chat request holds besides the job's data: the prompt, the schema (in it or beside it, and
    counted as input once more), and the names of the data's fields."""
    schema = _schema(answer)
    return len(system_message(prompt, "prompt", schema)) + len(json.dumps(schema)) + 200


class Kind(JobKind):
    """A kind of job whose payload is a `Payload`; its own fields may be given by position, in their order."""

    payload_type: ClassVar[type[Payload]]

    def __init_subclass__(cls) -> None:
        if "payload_type" in vars(cls):
            cls.positional = tuple(name for name in cls.payload_type.model_fields if name not in Payload.model_fields)

    def payload(self, fields: dict[str, Any]) -> Any:
        return check(self.name, self.payload_type, fields)

    def facts(self, payload: Any) -> JobFacts:
        return JobFacts(
            kind=self.name,
            api=payload.api,
            user_id=payload.user_id,
            strategy=payload.strategy,
            requested_model=payload.model,
            header_model=payload.x_llm_model,
            **self.looks(payload),
        )

    @abstractmethod
    def looks(self, payload: Any) -> dict[str, Any]:
        """What the rungs of `strategies.toml` ask of a job of this kind: fields of `JobFacts`."""


class ChatKind(Kind):
    """A kind of job that is one call of a chat model: `prompt` is what the model is told, `answer` what it must answer.
    A job that says nothing else becomes the answer, with `processing_metadata`."""

    capped = True
    on_loop = True
    prompt: ClassVar[str]
    answer: ClassVar[type[BaseModel]]
    temperature: ClassVar[float]
    max_tokens: ClassVar[int]

    @abstractmethod
    def data(self, payload: Any) -> dict[str, Any]:
        """What the model is given, as JSON in the user message, so that no text passes itself off as an instruction."""

    def data_bytes(self, payload: Any) -> int:
        """No less than the bytes of `data` as JSON in UTF-8."""
        return len(json.dumps(self.data(payload)))

    def facts(self, payload: Any) -> JobFacts:
        size = _fixed_bytes(self.prompt, self.answer) + self.data_bytes(payload)
        return replace(super().facts(payload), prompt_bytes=size, answer_tokens=self.max_tokens)

    def requests(self, payload: Any, model: Model) -> list[Request]:
        schema = _schema(self.answer)
        return [
            ChatRequest(
                system=system_message(self.prompt, model.json_by, schema),
                user=user_message(self.data(payload)),
                schema_name=self.answer.__name__,
                schema=schema,
                temperature=self.temperature,
                max_tokens=min(self.max_tokens, model.max_output),
            )
        ]

    def read(self, payload: Any, answer: Answer) -> tuple[dict[str, Any], float | None]:
        return read_answer(self.answer, answer.content), None

    def result(self, data: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
        return {**data, "processing_metadata": metadata}


class Parse(ChatKind):
    """Parse a job posting into structured data.

    `parse.delay(job_description=…, company_name=…, role_title=…, user_id=…, api=…)`; the result is the posting
    as a dict (see `ParsedPosting`) with `processing_metadata`."""

    name = "parse"
    payload_type = ParsePayload
    example: ClassVar[dict[str, Any]] = {
        "job_description": POSTING, "company_name": "Forno", "role_title": "Baker", "user_id": 42, "api": "keywords",
    }  # fmt: skip
    prompt = PARSE
    answer = ParsedPosting
    temperature = 0.1
    max_tokens = 1000

    def looks(self, payload: ParsePayload) -> dict[str, Any]:
        return {"words": count_words(payload.job_description)}

    def data(self, payload: ParsePayload) -> dict[str, Any]:
        return payload.model_dump(include={"job_description", "company_name", "role_title"}, exclude_none=True)

    def data_bytes(self, payload: ParsePayload) -> int:
        # not as JSON: a look takes a hundredth of the time, and submitting should cost nothing
        texts = (payload.job_description, payload.company_name or "", payload.role_title or "")
        return MOST_BYTES_PER_CHAR * sum(map(len, texts))

    def read(self, payload: ParsePayload, answer: Answer) -> tuple[dict[str, Any], float | None]:
        parsed = read_answer(ParsedPosting, answer.content)
        return {**parsed, "raw_job_description": payload.job_description}, parsed["confidence_score"]


class Generate(ChatKind):
    """Write the content of a CV for a posting.

    `generate.delay(job_data={"raw_job_description": …}, artifacts=[…], preferences={…}, user_id=…)`; a parse
    result fits as `job_data`. The result is `{"content": …, "processing_metadata": …}` (see `CVContent`)."""

    name = "generate"
    payload_type = GeneratePayload
    example: ClassVar[dict[str, Any]] = {
        "job_data": {"raw_job_description": POSTING},
        "artifacts": [{"type": "experience", "title": "Baker", "organization": "Molino"}],
        "preferences": {"tone": "creative"},
        "user_id": 42,
        "on_budget": "defer",
    }
    prompt = GENERATE
    answer = CVContent
    temperature = 0.3
    max_tokens = 2500

    def looks(self, payload: GeneratePayload) -> dict[str, Any]:
        return {
            "words": count_words(payload.description),
            "artifacts": len(payload.artifacts),
            "creative": payload.preferences.get("tone") == "creative",
        }

    def data(self, payload: GeneratePayload) -> dict[str, Any]:
        job_data = {name: value for name, value in payload.job_data.items() if name != "processing_metadata"}
        return {"job_data": job_data, "artifacts": payload.artifacts, "preferences": payload.preferences}

    def data_bytes(self, payload: GeneratePayload) -> int:
        return payload.json_bytes

    def read(self, payload: GeneratePayload, answer: Answer) -> tuple[dict[str, Any], float | None]:
        content = read_answer(CVContent, answer.content)
        return content, cv_quality(content, payload.job_data, payload.artifacts)

    def result(self, data: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
        return {"content": data, "processing_metadata": metadata}


class Embed(Kind):
    """Turn texts into vectors.

    `embed.delay(texts=[…], use_case="similarity", user_id=…)`; the result is a list with one item per text:
    `embedding`, `model_used`, `dimensions`, `text_index`, `cost_share_usd`. A large job is cut into requests
    that a provider takes; its state is PROGRESS with `done` and `total` meanwhile."""

    name = "embed"
    payload_type = EmbedPayload
    example: ClassVar[dict[str, Any]] = {"texts": ["bread", "rolls"], "use_case": "similarity", "user_id": 42}
    capped = False

    def looks(self, payload: EmbedPayload) -> dict[str, Any]:
        return {"use_case": payload.use_case}

    def requests(self, payload: EmbedPayload, model: Model) -> list[Request]:
        return [EmbedRequest(texts) for texts in cut_texts(payload.texts, model)]

    def check_size(self, payload: EmbedPayload, model: Model) -> None:
        """No tokenizer puts two words into one token, so there are at least as many tokens as words."""
        for index, text in enumerate(payload.texts):
            if len(text) > 2 * model.context and (words := len(text.split())) > model.context:
                _too_long(index, f"{words} words", model)

    def read(self, payload: EmbedPayload, answer: Answer) -> tuple[Vectors, float | None]:
        if answer.vectors is None:
            raise AnswerInvalid("no vectors")
        return answer.vectors, None

    def keep(self, session: Session, job_id: str, part: int, data: Vectors) -> None:
        session.add(
            JobVectors(
                job_id=job_id, part=part, dimensions=data.dimensions, count=data.count, vectors=data.data
            )
        )  # fmt: skip

    def load(self, session: Session, job_id: str, kept: Any) -> list[JobVectors]:
        rows = session.scalars(select(JobVectors).where(JobVectors.job_id == job_id).order_by(JobVectors.part))
        return list(rows)

    def result(self, data: list[JobVectors], metadata: dict[str, Any]) -> list[dict[str, Any]]:
        index = count()
        texts = sum(row.count for row in data)
        return [item for row in data for item in vector_items(row, texts, index, metadata)]


def vector_items(
    row: JobVectors, texts: int, index: Iterator[int], metadata: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The items of an embed job's result that are in this row; the job has so many `texts`, `index` counts them."""
    share = metadata["cost_usd"] / texts
    for vector in split(row.vectors, row.dimensions):
        yield {
            "embedding": vector,
            "model_used": metadata["model_used"],
            "dimensions": row.dimensions,
            "text_index": next(index),
            "cost_share_usd": share,
        }


def cut_texts(texts: list[str], model: Model) -> Iterator[list[str]]:
    """The texts in order, in lists that the provider takes in one request. `InvalidJob` names the first text that
    is too long for the model."""
    from worker.tokens import CHUNK_CHARS, count_tokens

    provider = load_registry().provider_of(model)
    group: list[str] = []
    tokens = 0
    for index, text in enumerate(texts):
        counted = count_tokens(text, model.tokenizer)
        if counted > model.context:
            _too_long(index, f"{counted} tokens", model)
        # counting a long text in chunks may miss a token or two at each cut
        most = counted + 2 * (len(text) // CHUNK_CHARS)
        full = len(group) == provider.texts_per_request or tokens + most > provider.text_tokens_per_request
        if group and full:
            yield group
            group, tokens = [], 0
        group.append(text)
        tokens += most
    yield group


def _too_long(index: int, size: str, model: Model) -> NoReturn:
    raise InvalidJob(f"embed: field texts.{index}: has {size}, {model.id} takes {model.context} tokens")
