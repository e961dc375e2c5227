"""The three kinds of job: what each asks a provider for, and how it reads the answer."""

import json
from collections.abc import Iterator
from functools import cache
from itertools import count
from typing import Any, NoReturn

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

PARSE_TOKENS = 1000
GENERATE_TOKENS = 2500
# a character of a text takes at most so many bytes in the JSON of a message: \u0001
MOST_BYTES_PER_CHAR = 6


@cache
def _schema(answer: type[BaseModel]) -> dict[str, Any]:
    return answer.model_json_schema()


def _common(payload: Payload) -> dict[str, Any]:
    return {
        "api": payload.api,
        "user_id": payload.user_id,
        "strategy": payload.strategy,
        "requested_model": payload.model,
        "header_model": payload.x_llm_model,
    }


@cache
def _fixed_bytes(prompt: str, answer: type[BaseModel]) -> int:
    """No less than what a chat request holds besides the job's data: the prompt, the schema (in it or beside it, and
    counted as input once more), and the names of the data's fields."""
    schema = _schema(answer)
    return len(system_message(prompt, "prompt", schema)) + len(json.dumps(schema)) + 200


def _chat_request(
    model: Model, prompt: str, data: dict[str, Any], answer: type[BaseModel], temperature: float, max_tokens: int
) -> list[Request]:
    schema = _schema(answer)
    return [
        ChatRequest(
            system=system_message(prompt, model.json_by, schema),
            user=user_message(data),
            schema_name=answer.__name__,
            schema=schema,
            temperature=temperature,
            max_tokens=min(max_tokens, model.max_output),
        )
    ]


class Parse(JobKind):
    """Parse a job posting into structured data.

    `parse.delay(job_description=…, company_name=…, role_title=…, user_id=…, api=…)`; the result is the posting
    as a dict (see `ParsedPosting`) with `processing_metadata`."""

    name = queue = "parse"
    capped = True
    positional = ("job_description", "company_name", "role_title")

    def payload(self, fields: dict[str, Any]) -> ParsePayload:
        return check(self.name, ParsePayload, fields)

    def facts(self, payload: ParsePayload) -> JobFacts:
        texts = (payload.job_description, payload.company_name or "", payload.role_title or "")
        return JobFacts(
            kind="parse",
            words=count_words(payload.job_description),
            prompt_bytes=_fixed_bytes(PARSE, ParsedPosting) + MOST_BYTES_PER_CHAR * sum(map(len, texts)),
            answer_tokens=PARSE_TOKENS,
            **_common(payload),
        )

    def requests(self, payload: ParsePayload, model: Model) -> list[Request]:
        data = payload.model_dump(include={"job_description", "company_name", "role_title"}, exclude_none=True)
        return _chat_request(model, PARSE, data, ParsedPosting, temperature=0.1, max_tokens=PARSE_TOKENS)

    def read(self, payload: ParsePayload, answer: Answer) -> tuple[dict[str, Any], float | None]:
        parsed = read_answer(ParsedPosting, answer.content)
        return {**parsed, "raw_job_description": payload.job_description}, parsed["confidence_score"]

    def result(self, data: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
        return {**data, "processing_metadata": metadata}


class Generate(JobKind):
    """Write the content of a CV for a posting.

    `generate.delay(job_data={"raw_job_description": …}, artifacts=[…], preferences={…}, user_id=…)`; a parse
    result fits as `job_data`. The result is `{"content": …, "processing_metadata": …}` (see `CVContent`)."""

    name = queue = "generate"
    capped = True
    positional = ("job_data", "artifacts", "preferences")

    def payload(self, fields: dict[str, Any]) -> GeneratePayload:
        return check(self.name, GeneratePayload, fields)

    def facts(self, payload: GeneratePayload) -> JobFacts:
        return JobFacts(
            kind="generate",
            words=count_words(payload.description),
            artifacts=len(payload.artifacts),
            creative=payload.preferences.get("tone") == "creative",
            prompt_bytes=_fixed_bytes(GENERATE, CVContent) + payload.json_bytes,
            answer_tokens=GENERATE_TOKENS,
            **_common(payload),
        )

    def requests(self, payload: GeneratePayload, model: Model) -> list[Request]:
        job_data = {name: value for name, value in payload.job_data.items() if name != "processing_metadata"}
        data = {"job_data": job_data, "artifacts": payload.artifacts, "preferences": payload.preferences}
        return _chat_request(model, GENERATE, data, CVContent, temperature=0.3, max_tokens=GENERATE_TOKENS)

    def read(self, payload: GeneratePayload, answer: Answer) -> tuple[dict[str, Any], float | None]:
        content = read_answer(CVContent, answer.content)
        return content, cv_quality(content, payload.job_data, payload.artifacts)

    def result(self, data: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
        return {"content": data, "processing_metadata": metadata}


class Embed(JobKind):
    """Turn texts into vectors.

    `embed.delay(texts=[…], use_case="similarity", user_id=…)`; the result is a list with one item per text:
    `embedding`, `model_used`, `dimensions`, `text_index`, `cost_share_usd`. A large job is cut into requests
    that a provider takes; its state is PROGRESS with `done` and `total` meanwhile."""

    name = queue = "embed"
    capped = False
    positional = ("texts", "use_case")

    def payload(self, fields: dict[str, Any]) -> EmbedPayload:
        return check(self.name, EmbedPayload, fields)

    def facts(self, payload: EmbedPayload) -> JobFacts:
        return JobFacts(kind="embed", use_case=payload.use_case, **_common(payload))

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
