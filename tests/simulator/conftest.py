"""A simulator for each test, on a free loopback port, and a plain HTTP client for it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from simulator.catalogue import Catalogue, served
from simulator.server import running

# Prices written here by hand, not read from the registry.
CATALOGUE = Catalogue(
    [
        served("gpt-4o", input="2.50", output="10", tokenizer="o200k_base", context=128_000, max_output=16_384),
        served("gpt-4o-mini", input="0.15", output="0.60", tokenizer="o200k_base", context=128_000),
        served("gpt-3.5-turbo", input="0.50", output="1.50", context=16_385, max_output=4_096),
        served("gpt-4", input="30", output="60", context=8_192),
        served("cheap", input="0.0005", output="0.0005"),
        served("claude-sonnet-4-20250514", provider="anthropic", input="3", output="15", context=200_000),
        served("claude-3-haiku-20240307", provider="anthropic", input="0.25", output="1.25", max_output=4_096),
        served("text-embedding-3-small", kind="embedding", input="0.02", context=8_192, dimensions=1536),
        served("text-embedding-3-large", kind="embedding", input="0.13", context=8_192, dimensions=3072),
        served("azure-gpt-4o", wire_name="gpt4o-2", input="2.50", output="10", tokenizer="o200k_base"),
    ]
)

PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "embeddings": "/v1/embeddings"}
POSTING = """company_name: Acme GmbH
role_title: Staff Engineer

You will own the payments platform and lead four engineers. We build services in Python and Go on Kubernetes.
Requirements: seven years of experience with PostgreSQL and Redis. You improve reliability, cost and delivery.
You write clear design documents for colleagues. Experience with Terraform and Kafka is welcome.
We offer remote work across Europe and a generous budget for learning."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "company_name",
        "summary",
        "skills",
        "duties",
        "level",
        "salary",
        "remote",
        "years",
        "confidence_score",
    ],
    "properties": {
        "company_name": {"type": "string"},
        "summary": {"type": "string"},
        "skills": {"type": "array", "items": {"type": "string"}},
        "duties": {"type": "array", "items": {"$ref": "#/$defs/Duty"}},
        "level": {"type": "string", "enum": ["junior", "senior", "staff"]},
        "salary": {"anyOf": [{"type": "integer", "minimum": 40, "maximum": 90}, {"type": "null"}]},
        "remote": {"type": "boolean"},
        "years": {"type": "integer", "minimum": 0, "maximum": 40},
        "confidence_score": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "$defs": {
        "Duty": {
            "type": "object",
            "additionalProperties": False,
            "required": ["title", "details"],
            "properties": {
                "title": {"type": "string"},
                "details": {"type": "array", "minItems": 2, "items": {"type": "string"}},
            },
        }
    },
}


@dataclass(frozen=True)
class Reply:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Sim:
    """Talks to one simulator over plain HTTP. `timeout` in seconds."""

    url: str
    timeout: float = 20
    key: str | None = "sk-test"
    extra: dict[str, str] = field(default_factory=lambda: {"anthropic-version": "2023-06-01"})

    def send(self, method: str, path: str, body: Any = None) -> Reply:
        target = urlsplit(self.url)
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=self.timeout)
        headers = dict(self.extra)
        if self.key is not None:
            headers |= {"Authorization": f"Bearer {self.key}", "x-api-key": self.key}
        try:
            raw = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            connection.request(method, path, raw, headers)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any) -> Reply:
        return self.send("POST", PATHS.get(path, path), body)

    def bill(self, query: str = "") -> Any:
        return self.send("GET", "/bill" + query).json

    def fault(self, **rule: Any) -> None:
        reply = self.send("PUT", "/faults", {"seed": 1, "rules": [rule]})
        assert reply.status == 200, reply.raw

    def chat(self, text: str = POSTING, schema: Any = None, **more: Any) -> Reply:
        body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}
        if schema:
            described = {"name": "posting", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": described}
        return self.post("chat", body)

    def message(self, text: str = POSTING, schema: Any = None, **more: Any) -> Reply:
        body: dict[str, Any] = {
            "model": "claude-sonnet-4-20250514",
            "max_tokens": 1000,
            "messages": [{"role": "user", "content": text}],
            **more,
        }
        if schema:
            body["tools"] = [{"name": "answer", "input_schema": schema}]
            body["tool_choice"] = {"type": "tool", "name": "answer"}
        return self.post("messages", body)

    def embed(self, texts: Any = "hello world", **more: Any) -> Reply:
        return self.post("embeddings", {"model": "text-embedding-3-small", "input": texts, **more})


@pytest.fixture
def sim() -> Iterator[Sim]:
    with running(catalogue=CATALOGUE) as url:
        yield Sim(url)


@pytest.fixture
def schema() -> dict[str, Any]:
    return SCHEMA


@pytest.fixture
def posting() -> str:
    return POSTING
