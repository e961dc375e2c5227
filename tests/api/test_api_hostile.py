"""Input that means harm: it is refused, nothing is written or published, and the server goes on."""

import gzip
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import redis

from tests.api.conftest import POSTING, jobs, messages, problem_of
from tests.integration.conftest import wait_until

PARSE = {"job_description": POSTING}


def deep(levels: int) -> bytes:
    return b'{"job_description": ' + b"[" * levels + b"]" * levels + b"}"


HOSTILE: list[tuple[Any, int]] = [
    (b"", 400), (b"null", 422), (b"[]", 422), (b"7", 422), (b"{", 400), (b"\xff\xfe", 400), (b"\xef\xbb\xbf{}", 400),
    (deep(10_000), 400), (deep(200), 422), (b'{"job_description": NaN}', 400), (b'{"job_description": -Infinity}', 400),
    (b'{"job_description": 1e999}', 422), (b'{"job_description": ' + b"9" * 5000 + b"}", 400),
    (b'{"job_description": "a", "job_description": "b"}', 400),
    (b'{"job_description": "\\ud800"}', 422), (b'{"job_description": "a\\u0000"}', 422),
    (b'{"job_description": "a", "\\ud800": 1}', 422), (b'{"job_description": "a", "user_id": 1e400}', 422),
    (b'{"job_description": "a", "api": "\\u0000"}', 422), (b'{"job_description": "a", "user_id": true}', 422),
    (b'{"job_description": "a", "idempotency_key": "\\ud83d"}', 422),
    (b'{"job_description": "a", "model": "\\u0007"}', 422),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status"), HOSTILE, ids=[str(n) for n in range(len(HOSTILE))])
@pytest.mark.parametrize("kind", ["parse", "batch"])
def test_a_hostile_body_is_refused(api: httpx.Client, broker: redis.Redis, body: bytes, status: int, kind: str) -> None:
    answer = api.post(f"/api/v1/jobs/{kind}/", content=body, headers={"Content-Type": "application/json"})
    problem_of(answer, status if kind == "parse" else answer.status_code)
    assert 400 <= answer.status_code < 500
    assert (jobs(), messages(broker)) == (0, [])


NASTY = ["' or 1=1; drop table jobs; --", "<script>alert(1)</script>", "{{7*7}}", "../../etc/passwd", "%s%n", "ﷺ" * 64]


@pytest.mark.parametrize("text", NASTY)
def test_text_of_all_sorts_is_only_text(api: httpx.Client, text: str) -> None:
    body = {"job_description": text, "company_name": text, "role_title": text, "user_id": text[:64], "api": text[:64]}
    told = api.post("/api/v1/jobs/parse/", json={**body, "idempotency_key": text})
    assert told.status_code == 202
    shown = api.get(told.json()["url"])
    assert (shown.json()["user_id"], shown.json()["api"]) == (text[:64], text[:64])
    assert shown.headers["content-type"] == "application/json"
    assert [one["id"] for one in api.get("/api/v1/jobs/", params={"user_id": text[:64]}).json()["jobs"]] == [
        shown.json()["id"]
    ]
    for field in ("model", "strategy", "on_budget"):
        problem_of(api.post("/api/v1/jobs/parse/", json={**body, field: text}), 422)


def test_an_address_or_a_key_of_a_provider_is_no_field(api: httpx.Client) -> None:
    for field in ("api_base", "base_url", "api_key", "litellm", "state", "queue", "kind"):
        told = problem_of(api.post("/api/v1/jobs/parse/", json={**PARSE, field: "SECRET"}), 422)
        assert told["field"] == field
        assert "SECRET" not in json.dumps(told)
    assert jobs() == 0


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_other_content_is_refused(api: httpx.Client, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    problem_of(api.post("/api/v1/jobs/parse/", content=json.dumps(PARSE), headers=headers), 415)


HEAD = "POST /api/v1/jobs/parse/ HTTP/1.1\nHost: localhost\nContent-Type: application/json"


def raw(api: httpx.Client, head: str, body: bytes = b"") -> str:
    """What the server says to these very bytes, until it closes or is silent."""
    url = api.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        told = b""
        with suppress(OSError):  # it may have heard enough
            connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        with suppress(OSError):
            while chunk := connection.recv(65536):
                told += chunk
    return told.decode()


def test_fifty_megabytes_are_refused_with_or_without_their_length(api: httpx.Client) -> None:
    problem_of(
        api.post("/api/v1/jobs/parse/", content=b" " * (50 << 20), headers={"Content-Type": "application/json"}), 413
    )
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    told = raw(api, f"{HEAD}\nTransfer-Encoding: chunked", chunk * 50 + b"0\r\n\r\n")
    assert " 413 " in told.split("\r\n")[0]
    assert "connection: close" in told.lower()
    assert api.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 5\nTransfer-Encoding: chunked",
        "Content-Length: 5\nContent-Length: 6",
        "Content-Length: 2\nX-LLM-Model: gpt-4o\nX-LLM-Model: gpt-4o-mini",
        "Content-Length: 2\nIdempotency-Key: a\nIdempotency-Key: b",
        "Content-Length: 2\nHost: 127.0.0.1",
        "Content-Length: -1",
        "Content-Length : 2",
        "Transfer-Encoding: xchunked",
        "Content-Length: 2\nX-A: b\n folded: c\nBad Name: d",
    ],
)
def test_smuggled_headers_are_refused(api: httpx.Client, lines: str) -> None:
    first = raw(api, f"{HEAD}\nConnection: close\n{lines}", b"0\r\n\r\n").split("\r\n")[0]
    assert first.split()[1][0] == "4", first
    assert jobs() == 0
    assert api.get("/healthz").status_code == 200


def test_an_error_that_nobody_foresaw_quotes_nothing(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(PARSE["job_description"])

    monkeypatch.setattr("api.jobs.prepare", fail)
    told = problem_of(api.post("/api/v1/jobs/parse/", json=PARSE), 500)
    assert "baker" not in json.dumps(told) + caplog.text
    assert "in _prepare" in caplog.text


def test_what_is_no_http_is_told_so_as_a_problem(api: httpx.Client) -> None:
    for head, body in (
        ("GET /healthz HTTP/1.1\nNo Name: x", b""),
        ("\x16\x03\x01", b""),
        (f"{HEAD}\nTransfer-Encoding: chunked", b"zz\r\n"),
    ):
        told = raw(api, head, body)
        assert told.startswith("HTTP/1.1 400 ")
        assert "application/problem+json" in told
        assert "nosniff" in told
        assert json.loads(told.rpartition("\r\n\r\n")[2])["type"].endswith(":bad_request")


def test_a_head_that_does_not_come_is_given_up(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.protocol.HEAD_WITHIN_S", 0.5)
    # neither at all, nor after the first bytes, nor a second one on the connection
    answered = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for sent in ("", "GET /healthz HTTP/1.1\r\nHost: loc", answered + "GET /hea"):
        with socket.create_connection((api.base_url.host, api.base_url.port or 80), timeout=20) as connection:
            connection.sendall(sent.encode())
            told = b""
            while chunk := connection.recv(65536):
                told += chunk
        assert told.count(b"HTTP/1.1 408 ") == 1
        assert told.count(b"alive") == sent.count(answered)


def test_packed_bodies_are_refused(api: httpx.Client) -> None:
    body = gzip.compress(json.dumps(PARSE).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    told = problem_of(api.post("/api/v1/jobs/parse/", content=body, headers=headers), 415)
    assert told["detail"].startswith("Content-Encoding: ")
    assert api.post("/api/v1/jobs/parse/", json=PARSE, headers={"Content-Encoding": "identity"}).status_code == 202


def test_all_bodies_together_have_a_bound(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.guard.BODIES_BYTES", 3 << 20)
    headers = {"Content-Type": "application/json"}
    large = json.dumps({"texts": ["a" * 1000] * 2000}).encode()
    with socket.create_connection((api.base_url.host, api.base_url.port or 80), timeout=20) as slow:
        head = f"{HEAD}\nContent-Length: {2 << 20}\n\n".replace("\n", "\r\n").encode()
        slow.sendall(head + b" " * ((2 << 20) - 1))
        refused = problem_of(until(lambda: api.post("/api/v1/jobs/embed/", content=large, headers=headers), 503), 503)
        assert refused["detail"].startswith("nothing was done")
    assert until(lambda: api.post("/api/v1/jobs/embed/", content=large, headers=headers), 202).status_code == 202


def until(ask: Callable[[], httpx.Response], status: int) -> httpx.Response:
    answers: list[httpx.Response] = []
    wait_until(lambda: answers.append(ask()) or answers[-1].status_code == status)
    return answers[-1]
