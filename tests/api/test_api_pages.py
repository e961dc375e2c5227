"""The pages for people: what they show, to whom, and that nothing of what others have named gets out of its place."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import text

from api.pages import policy
from budget.ledger import Ledger
from budget.money import format_usd
from db import overview
from db.models import Alert, AttemptState, DailyCost, JobState, utc_now
from db.once import once_per_environment
from db.session import read, write
from tests.api.conftest import Tokens, problem_of, serving
from tests.watch.days import call
from tests.watch.test_report_pages import HOSTILE, Page
from watch.overview import Part
from watch.report import today
from watch.words import visible


def told(answer: httpx.Response) -> Page:
    assert answer.status_code == 200, answer.text
    page = Page(answer.text)
    assert page.open == []
    return page


def test_the_page_shows_what_the_ledger_and_sql_say(api: httpx.Client, warm_ledger: Ledger) -> None:
    day = today()
    warm_ledger.settle(
        "a", warm_ledger.reserve("a", 5, job_id="j", user_id=None, job_cap=None, lease_s=60).scope_keys, 5
    )
    held = warm_ledger.reserve("b", 12_000_000_000, job_id="k", user_id=None, job_cap=None, lease_s=60)
    warm_ledger.settle("b", held.scope_keys, 12_345_678_901)
    call(day.isoformat(), cost_nano=12_345_678_901, created_at=utc_now(), model_name="gpt-4o", strategy="balanced")
    call(day.isoformat(), state=AttemptState.CALLING, job_state=JobState.RUNNING, created_at=utc_now())
    with write() as session:
        yesterday = (day - timedelta(days=1)).isoformat()
        session.add(
            DailyCost(date=yesterday, user_id="", model_name="gpt-4o", task_type="parse", api="", strategy="balanced",
                      total_cost_nano=7_000_000_000, generation_count=3, attempts=3, failures=0, reserved_nano=0,
                      input_tokens=0, output_tokens=0)
        )  # fmt: skip
    page = told(api.get("/"))
    shown = " ".join(page.text)
    assert "$12.34 5678906" in shown, "the ledger's day, exact"
    assert "24.6 % of $50.00" in shown and "1.2 % of $1,000.00" in shown
    assert format_usd(19_345_678_901) in shown, "thirty days: the rollup's, and today's"
    by_model = shown[shown.index("By model") : shown.index("By strategy")]
    assert "gpt-4o $19.34 5678901 100.0 %" in by_model and "100.0 % 0.900 1.00 s 1.00 s" in by_model
    queue = shown[shown.index("Queues") : shown.index("Breakers")]
    assert "parse 0 – 1 0" in queue
    assert ("Running", "1") in [*zip(page.text, page.text[1:], strict=False)]


def test_what_others_have_named_is_shown_as_it_is_and_nothing_more(api: httpx.Client) -> None:
    for number, name in enumerate(HOSTILE):
        call(today().isoformat(), job=f"j{number}", user_id=name, model_name=f"m{name}", strategy="balanced",
             created_at=utc_now() + timedelta(seconds=number))  # fmt: skip
    with write() as session:
        session.execute(text("update jobs set error = :e, error_code = 'x', user_id = 'x'"), {"e": HOSTILE[0] * 8})
        for number, name in enumerate(HOSTILE[:8]):
            session.add(Alert(kind="budget", subject=name, period="2026-11", threshold=str(number), message=name))
    page = told(api.get("/"))
    for name in HOSTILE:
        assert visible(f"m{name}") in page.text, name
    for name in HOSTILE[:8]:
        assert visible(name) in page.text, name
    one = told(api.get("/jobs/j0/"))
    assert HOSTILE[0] * 8 in one.text
    for found in (page, one):
        assert len([tag for tag, _ in found.elements if tag == "script"]) <= 1
        assert not {"img", "iframe", "object", "embed"} & {tag for tag, _ in found.elements}
        assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
        assert "\u202e" not in "".join(found.text)


@pytest.mark.parametrize(
    "job_id", ["<script>alert(1)</script>", "a/../b", "\u202egpj", "x" * 200, "👩\u200d🍳", "a\nb"]
)
def test_a_hostile_job_id_is_only_missing(api: httpx.Client, job_id: str) -> None:
    answer = api.get(f"/jobs/{quote(job_id, safe='')}/")
    assert answer.status_code == 404
    assert "<script>alert" not in answer.text


def test_a_job_has_its_attempts_and_no_text_of_its_own(api: httpx.Client) -> None:
    body = {"job_description": "We look for a secretposting baker. " * 40, "user_id": 42}
    job_id = api.post("/api/v1/jobs/parse/", json=body).json()["id"]
    call(today().isoformat(), job=job_id, state=AttemptState.FAILED, error="the provider <b>said</b> no", number=1)
    call(today().isoformat(), job=job_id, number=2, model_name="gpt-4o-mini", reason="fallback_timeout")
    answer = api.get(f"/jobs/{job_id}/")
    page = told(answer)
    assert {"gpt-4o", "gpt-4o-mini", "the provider <b>said</b> no", "fallback_timeout"} <= {*page.text}
    assert "secretposting" not in answer.text
    assert api.get(f"/jobs/{job_id}").text.count("<li class=") == 2


def test_the_policy_lets_nothing_in_from_elsewhere(api: httpx.Client) -> None:
    answer = api.get("/")
    found = answer.headers["content-security-policy"]
    assert found == policy()
    assert "default-src 'none'" in found and "script-src 'sha256-" in found and "frame-ancestors 'none'" in found
    assert "unsafe" not in found.replace("style-src-attr 'unsafe-inline'", "")
    page = Page(answer.text)
    names = {name for _, attributes in page.elements for name in attributes}
    assert "src" not in names
    links = [attributes["href"] or "" for _, attributes in page.elements if "href" in attributes]
    assert all(link.startswith(("/", "data:image/svg+xml")) for link in links)


def sign_in(client: httpx.Client, token: str, **fields: str) -> httpx.Response:
    return client.post("/sign-in/", data={"token": token, "to": "/", **fields})


def test_a_browser_signs_in_with_a_token_that_may_read(tokens: Tokens) -> None:
    plain = {name: header["Authorization"].split()[1] for name, header in tokens.headers.items()}
    with serving() as url, httpx.Client(base_url=url, headers={"Accept": "text/html"}) as browser:
        sent = browser.get("/jobs/abc/")
        assert (sent.status_code, sent.headers["location"]) == (303, "/sign-in/?to=%2Fjobs%2Fabc%2F")
        form = browser.get(sent.headers["location"])
        assert form.status_code == 200 and 'value="/jobs/abc/"' in form.text
        assert sign_in(browser, "pm_wrong").status_code == 401
        for name in ("submitter", "bound", "bound_admin"):
            assert sign_in(browser, plain[name]).status_code == 403
        assert not browser.cookies
        for to, place in (("/jobs/x/", "/jobs/x/"), ("//evil.example", "/"), ("https://evil.example", "/"),
                          ("/\\evil.example", "/")):  # fmt: skip
            entered = sign_in(browser, plain["reader"], to=to)
            assert (entered.status_code, entered.headers["location"]) == (303, place)
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Max-Age=43200" in cookie
        assert plain["reader"] not in cookie
        assert "Sign out" in browser.get("/").text
        assert browser.get("/api/v1/jobs/", headers={"Accept": "*/*"}).status_code == 200
        problem_of(browser.put("/api/v1/models/settings/", json={"strategy": "balanced"}), 401)
        problem_of(browser.delete("/api/v1/jobs/x/"), 401)
        assert browser.post("/sign-out/").headers["location"] == "/sign-in/"
        assert browser.get("/").status_code == 303


def test_a_session_of_an_administrator_only_reads(tokens: Tokens) -> None:
    token = tokens.headers["admin"]["Authorization"].split()[1]
    with serving() as url, httpx.Client(base_url=url) as browser:
        assert sign_in(browser, token).status_code == 303
        assert browser.get("/").status_code == 200
        problem_of(browser.put("/api/v1/models/settings/", json={"strategy": "balanced"}), 401)


@pytest.mark.parametrize("change", ["name", "until", "signature", "old", "gone"])
def test_a_session_that_is_not_ours_or_is_over_is_none(
    tokens: Tokens, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tokens.headers["reader"]["Authorization"].split()[1]
    if change == "old":
        monkeypatch.setattr("api.session.HOLDS_S", -1)
    with serving() as url, httpx.Client(base_url=url) as browser:
        entered = sign_in(browser, token)
        name, until, signature = entered.cookies["paymaster"].strip('"').split(":") if change != "old" else (
            entered.headers["set-cookie"].split(";")[0].split("=", 1)[1].strip('"').split(":")
        )  # fmt: skip
        if change == "gone":
            once_per_environment.forget_all()  # a restart: another key
        made = {"name": ("ops", until, signature), "until": (name, str(int(until) + 1), signature),
                "signature": (name, until, "0" * 64)}.get(change, (name, until, signature))  # fmt: skip
        browser.cookies.clear()
        header = {"Cookie": f"paymaster={':'.join(made)}"}
        problem_of(browser.get("/", headers=header), 401)


def test_signing_in_is_only_from_our_own_page(tokens: Tokens) -> None:
    token = tokens.headers["reader"]["Authorization"].split()[1]
    with serving() as url, httpx.Client(base_url=url) as browser:
        for header in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            problem_of(browser.post("/sign-in/", data={"token": token}, headers=header), 403)
        problem_of(browser.post("/sign-in/", json={"token": token}), 415)
        own = {"Sec-Fetch-Site": "same-origin", "Origin": url}
        assert browser.post("/sign-in/", data={"token": token}, headers=own).status_code == 303


def test_without_tokens_links_are_followed_from_anywhere_and_nothing_else_is(api: httpx.Client) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert api.get("/", headers=elsewhere | {"Sec-Fetch-Dest": "document"}).status_code == 200
    problem_of(api.get("/", headers=elsewhere | {"Sec-Fetch-Dest": "empty"}), 403)
    problem_of(api.get("/", headers=elsewhere | {"Sec-Fetch-Dest": "iframe"}), 403)
    problem_of(api.delete("/api/v1/jobs/x/", headers=elsewhere | {"Sec-Fetch-Dest": "document"}), 403)


def test_what_is_away_is_said_and_what_was_known_stays(
    api: httpx.Client, warm_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every look asks
    monkeypatch.setattr("watch.overview.REST", 0)
    monkeypatch.setattr("watch.overview.RENEW_S", 0)
    assert "gives no answer" not in api.get("/").text
    monkeypatch.setattr("watch.overview.Overview._budgets", None)
    monkeypatch.setattr("watch.overview._queues", None)

    def away() -> Any:
        raise ConnectionError

    from api.pages import _overview

    for part in _overview()._parts.values():
        monkeypatch.setattr(part, "_ask", away)
        part.renew()
    page = " ".join(told(api.get("/")).text)
    assert "The ledger in Redis gives no answer, so nothing is spent" in page
    assert "The database gives no answer" in page
    assert "of $50.00" in page, "the limit that was known before"


def test_a_part_is_asked_once_for_many_and_rests_after_work() -> None:
    asked: list[int] = []
    part = Part("sums", lambda: asked.append(1) or len(asked), every_s=60)
    assert [part.look() for _ in range(5)] == [1] * 5
    part.renew()
    assert part.look() == 2


def test_no_query_of_the_page_looks_at_all_rows(api: httpx.Client) -> None:
    statements = [
        overview.rolled_up("2026-11-01", "2026-11-30"), overview.of_day("2026-11-22"), overview.latest_calls(2000),
        overview.latest_jobs(15), overview.calls_of(["a", "b"]),
    ]  # fmt: skip
    with read() as session:
        for statement in statements:
            compiled = statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
            plan = [row[3] for row in session.execute(text(f"explain query plan {compiled}"))]
            scans = [step for step in plan if step.startswith("SCAN") and "INDEX ix_" not in step]
            assert scans == [] and not any("ORDER BY" in step for step in plan), plan


def test_reports_come_in_the_format_that_is_asked_for(api: httpx.Client) -> None:
    call("2025-11-20", cost_nano=1_500_000_000, created_at=datetime(2025, 11, 20, 12, tzinfo=UTC))
    url = "/api/v1/reports/2025-11-20/"
    as_json = api.get(url)
    assert as_json.headers["content-type"] == "application/json"
    assert as_json.json()["total"]["cost_usd"] == "1.500000000"
    for accept, kind in (
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"), ("text/csv", "text/csv"),
        ("text/markdown", "text/markdown"), ("application/json;q=0.2, text/csv;q=0.9", "text/csv"),
        ("image/png", "application/json"), ("text/html;q=0, text/csv;q=bad", "application/json"),
    ):  # fmt: skip
        assert api.get(url, headers={"Accept": accept}).headers["content-type"].startswith(kind), accept
    html = api.get(url, params={"format": "html"})
    assert "<!doctype html>" in html.text and "style-src 'unsafe-inline'" in html.headers["content-security-policy"]
    assert api.get(url, params={"format": "csv"}).text.startswith("section,key,metric,value\n")
    assert problem_of(api.get(url, params={"format": "pdf"}), 422)["field"] == "format"


def test_days_without_a_report_are_told_apart(api: httpx.Client) -> None:
    assert "nothing was called" in problem_of(api.get("/api/v1/reports/2025-11-19/"), 404)["detail"]
    tomorrow = today() + timedelta(days=1)
    assert "yet to come" in problem_of(api.get(f"/api/v1/reports/{tomorrow}/"), 422)["detail"]
    for wrong in ("yesterday", "2025-02-30", "1969-12-31", "20251120"):
        assert problem_of(api.get(f"/api/v1/reports/{wrong}/"), 422)["field"] == "day"
    assert api.get(f"/api/v1/reports/{today()}/").json()["total"]["cost_nano"] == 0


def test_the_days_that_have_a_report_are_listed(api: httpx.Client) -> None:
    from watch.report import write_due

    days = [(today() - timedelta(days=ago)).isoformat() for ago in (1, 2, 4)]
    for day in days:
        call(day)
    write_due()
    first = api.get("/api/v1/reports/", params={"limit": 2}).json()
    assert [row["day"] for row in first["reports"]] == days[:2]
    assert api.get(first["reports"][0]["url"]).status_code == 200
    second = api.get("/api/v1/reports/", params={"limit": 2, "cursor": first["next"]}).json()
    assert [row["day"] for row in second["reports"]] == days[2:] and second["next"] is None


def test_metrics_are_for_those_who_may_read(tokens: Tokens) -> None:
    with serving() as url, httpx.Client(base_url=url) as client:
        problem_of(client.get("/metrics"), 401)
        problem_of(client.get("/metrics", headers=tokens.headers["submitter"]), 403)
        problem_of(client.get("/metrics", headers=tokens.headers["bound"]), 403)
        scraped = client.get("/metrics", headers=tokens.headers["reader"])
        assert scraped.headers["content-type"].startswith("text/plain; version=")
        assert 'paymaster_up{part="ledger"} 1.0' in scraped.text
        assert problem_of(client.get("/api/v1/reports/", headers=tokens.headers["bound"]), 403)
