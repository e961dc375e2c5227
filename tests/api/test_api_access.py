"""Who may do what, and what no request may do."""

import hashlib
import json
import socket
from contextlib import suppress
from functools import partialmethod
from typing import Any

import httpx
import pytest
import redis

from api.access import caller_of, check_address, make_token
from api.problems import Problem
from api.settings import ApiSettings, Role
from db.environment import SettingsError, read_settings
from db.once import once_per_environment
from tests.api.conftest import POSTING, Tokens, jobs, messages, problem_of, serving

PARSE = {"job_description": POSTING}
GETS = (
    "/api/v1/jobs/", "/api/v1/models/", "/api/v1/models/performance/", "/api/v1/models/settings/", "/api/v1/budget/",
    "/api/v1/costs/daily/", "/api/v1/alerts/",
)  # fmt: skip


class Asking:
    """Requests to an API that has tokens, each with the headers of one."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self.headers = headers or {}

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, headers=self.headers, timeout=60, **options)

    get, post = partialmethod(_ask, "GET"), partialmethod(_ask, "POST")
    put, delete = partialmethod(_ask, "PUT"), partialmethod(_ask, "DELETE")


def test_a_token_is_made_and_only_its_hash_is_kept() -> None:
    token, entry = make_token("shop", [Role.SUBMIT, Role.READ], "42")
    assert entry == f"shop:submit+read:{hashlib.sha256(token.encode()).hexdigest()}:42"
    assert make_token("shop", [Role.SUBMIT], None)[0] != token
    tokens = ApiSettings(api_tokens=f"{entry} ").api_tokens  # type: ignore[arg-type]
    caller = caller_of(f"bearer {token}", tokens)
    assert (caller.name, caller.user_id, caller.roles) == ("shop", "42", {Role.SUBMIT, Role.READ})
    for wrong in (None, "", "Bearer", f"Basic {token}", f"Bearer {token}x", f"Bearer {entry}", "Bearer é\udc80"):
        with pytest.raises(Problem) as refused:
            caller_of(wrong, tokens)
        assert refused.value.status == 401


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("SECRET", "number 1 is no token"),
        (f"a:submit:{'0' * 64},b:SECRET:{'1' * 64}", "number 2 has an unknown role; known: submit, read, admin"),
        (f"a:submit:{'x' * 64}", "number 1 is no token"),
        (f"a:submit:{'0' * 64}:u:v w", "number 2 is no token"),
    ],
)
def test_a_bad_token_is_named_by_its_place_only(entry: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKENS", entry)
    once_per_environment.forget_all()
    with pytest.raises(SettingsError) as refused:
        read_settings(ApiSettings)
    once_per_environment.forget_all()
    assert str(refused.value).startswith("API_TOKENS: ")
    assert words in str(refused.value)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.7", False),
        ("example.org", False), ("", False),
    ],
)  # fmt: skip
def test_without_tokens_only_this_machine_is_served(host: str, fits: bool) -> None:
    if fits:
        check_address(host, ApiSettings())
    else:
        with pytest.raises(SettingsError, match=r"^API_TOKENS: is empty, .*paymaster api-token"):
            check_address(host, ApiSettings())
    _, entry = make_token("a", [Role.READ], None)
    check_address(host, ApiSettings(api_tokens=entry))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "[::2]"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_without_tokens_no_web_page_may_ask(api: httpx.Client, headers: dict[str, str]) -> None:
    problem_of(api.post("/api/v1/jobs/parse/", json=PARSE, headers=headers), 403)
    problem_of(api.get("/api/v1/jobs/", headers=headers), 403)
    assert jobs() == 0


def test_without_tokens_no_other_machine_may_ask(api: httpx.Client) -> None:
    # as a proxy of this machine tells it
    problem_of(api.get("/api/v1/jobs/", headers={"X-Forwarded-For": "10.1.2.3"}), 403)
    assert api.get("/api/v1/jobs/", headers={"Host": "localhost:1", "Sec-Fetch-Site": "none"}).status_code == 200


def test_every_role_may_do_its_part_only(tokens: Tokens) -> None:
    with serving() as url:
        for path in GETS:
            problem_of(Asking(url).get(path), 401)
            problem_of(Asking(url, {"Authorization": "Bearer pm_guess"}).get(path), 401)
            assert Asking(url, tokens.headers["admin"]).get(path).status_code == 200
            assert Asking(url, tokens.headers["reader"]).get(path).status_code == 200
            money = path in ("/api/v1/budget/", "/api/v1/costs/daily/", "/api/v1/alerts/")
            assert Asking(url, tokens.headers["submitter"]).get(path).status_code == (403 if money else 200)
        strategy = {"strategy": "cost_optimized"}
        for name, submits, sets in (
            ("submitter", 202, 403), ("reader", 403, 403), ("admin", 202, 200), ("bound_admin", 202, 403),
        ):  # fmt: skip
            asking = Asking(url, tokens.headers[name])
            assert asking.post("/api/v1/jobs/parse/", json=PARSE).status_code == submits
            assert asking.put("/api/v1/models/settings/", json=strategy).status_code == sets
        challenge = Asking(url).get("/api/v1/jobs/").headers["www-authenticate"]
        assert challenge.startswith("Bearer")
        assert Asking(url).get("/healthz").status_code == 200


def test_a_bound_token_sees_and_submits_its_own_users_jobs_only(tokens: Tokens) -> None:
    with serving() as url:
        all_of_them, mine = Asking(url, tokens.headers["admin"]), Asking(url, tokens.headers["bound"])
        foreign = all_of_them.post("/api/v1/jobs/parse/", json={**PARSE, "user_id": 7, "idempotency_key": "k"}).json()
        own = mine.post("/api/v1/jobs/parse/", json=PARSE).json()
        assert all_of_them.get(own["url"]).json()["user_id"] == "42"
        assert mine.post("/api/v1/jobs/parse/", json={**PARSE, "user_id": 42}).status_code == 202
        assert problem_of(mine.post("/api/v1/jobs/parse/", json={**PARSE, "user_id": 7}), 403)["field"] == "user_id"
        taken = problem_of(mine.post("/api/v1/jobs/parse/", json={**PARSE, "idempotency_key": "k"}), 422)
        assert foreign["id"] not in json.dumps(taken)
        batch = mine.post("/api/v1/jobs/batch/", json={"jobs": [{"kind": "parse", **PARSE, "user_id": "x"}]}).json()
        assert batch["jobs"][0]["status"] == 403
        problem_of(mine.get(foreign["url"]), 404)
        problem_of(mine.get(foreign["url"], params={"wait": 5}), 404)
        problem_of(mine.delete(foreign["url"]), 404)
        assert {one["user_id"] for one in mine.get("/api/v1/jobs/").json()["jobs"]} == {"42"}
        problem_of(mine.get("/api/v1/jobs/", params={"user_id": "7"}), 403)
        problem_of(mine.get("/api/v1/budget/", params={"user_id": "7"}), 403)
        assert [one["scope"] for one in mine.get("/api/v1/budget/").json()["budgets"]] == ["user"]
        problem_of(mine.get("/api/v1/alerts/"), 403)


def test_a_token_has_so_many_requests_a_minute(
    tokens: Tokens, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_REQUESTS_PER_MINUTE", "5")
    once_per_environment.forget_all()
    with serving() as url:
        asking = Asking(url, tokens.headers["reader"])
        # the minute may turn meanwhile
        answers = [asking.get("/api/v1/jobs/") for _ in range(12)]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 2 <= len(refused) <= 7
        assert 0 < int(refused[0].headers["retry-after"]) <= 60
        problem_of(refused[0], 429)
        assert Asking(url, tokens.headers["admin"]).get("/api/v1/jobs/").status_code == 200
    assert all(broker.ttl(key) > 0 for key in broker.keys("{paymaster}:api:*"))


def test_requests_are_not_counted_while_redis_is_away(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    once_per_environment.forget_all()
    with serving() as url:
        assert Asking(url, tokens.headers["reader"]).get("/api/v1/jobs/").status_code == 200
        problem_of(Asking(url, tokens.headers["reader"]).get("/api/v1/budget/"), 503)


def test_every_answer_has_the_headers_that_browsers_obey(api: httpx.Client) -> None:
    for answer in (api.get("/healthz"), api.get("/nothing"), api.post("/api/v1/jobs/parse/", content=b"")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


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
    assert " 413 " in raw(api, f"{HEAD}\nTransfer-Encoding: chunked", chunk * 50 + b"0\r\n\r\n").split("\r\n")[0]
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
