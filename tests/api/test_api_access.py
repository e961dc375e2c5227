"""Who may do what, and what no request may do."""

import hashlib
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
from tests.api.conftest import POSTING, Tokens, jobs, problem_of, serving

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
        {"Host": "[::1].evil.example"},
        {"Host": "localhost:evil.example"},
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
        # a key is its user's: another's is neither in the way nor shown
        same_key = mine.post("/api/v1/jobs/parse/", json={**PARSE, "idempotency_key": "k"})
        assert (same_key.status_code, same_key.json()["id"] == foreign["id"]) == (202, False)
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
