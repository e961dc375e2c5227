"""The page in a real browser, against the real application on real HTTP."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from api.app import create_app
from api.serve import listen, server_of
from budget.ledger import Ledger
from db.models import JobState, utc_now
from tests.api.conftest import POSTING, Tokens, serving
from tests.integration.conftest import wait_until
from tests.watch.days import call
from watch.report import today

CHROMIUM = Path("/usr/bin/chromium")
WITHIN_MS = 30_000

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM} to look with"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@contextmanager
def looking(browser: Browser, url: str, width: int = 1280, scheme: Any = "light", **more: Any) -> Iterator[Page]:
    """A page at `url`, which must ask for nothing elsewhere and write nothing to the console."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    page = context.new_page()
    page.set_default_timeout(WITHIN_MS)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("data:", origin)) or said.append(asked.url))
    origin = "/".join(url.split("/")[:3])
    page.goto(url)
    try:
        yield page
        assert [one for one in said if "ERR_CONNECTION_REFUSED" not in one] == []
    finally:
        context.close()


def fill(ledger: Ledger) -> None:
    """Something of everything that the page shows, with names that are long."""
    held = ledger.reserve("a", 10**9, job_id="j", user_id=None, job_cap=None, lease_s=600)
    ledger.settle("a", held.scope_keys, 10**9)
    ledger.reserve("b", 2 * 10**9, job_id="k", user_id=None, job_cap=None, lease_s=600)
    for number, name in enumerate(("u" * 64, "<script>alert(1)</script>", "مستخدم", "👩‍👩‍👧", "anna@example.com")):
        call(today().isoformat(), user_id=name, model_name=f"model-{number}-{'m' * 40}", created_at=utc_now(),
             job_state=[*JobState][number + 1], cost_nano=123_456_789 * 10**number // 1000)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_says_nothing_and_asks_nobody_else(
    browser: Browser, api: httpx.Client, warm_ledger: Ledger, width: int, scheme: str
) -> None:
    fill(warm_ledger)
    papers = {"light": "rgb(245, 246, 243)", "dark": "rgb(14, 20, 18)"}
    with looking(browser, f"{api.base_url}", width, scheme) as page:
        assert "$1.00" in page.inner_text(".spent .big")
        assert page.inner_text(".gauge >> nth=0").split("\n")[-1] == "2.0 % of $50.00"
        assert "$2.00 held" in page.inner_text(".spent .note >> nth=0")
        filled = page.eval_on_selector(".gauge .fill", "e => e.offsetWidth / e.parentElement.offsetWidth")
        assert filled == pytest.approx(0.02, abs=0.01)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == papers[scheme]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.click("#jobs tbody th a >> nth=0")
        page.wait_for_selector(".timeline li")
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_what_is_new_appears_and_the_reader_stays_where_they_were(browser: Browser, api: httpx.Client) -> None:
    first = call(today().isoformat(), created_at=utc_now())
    with looking(browser, f"{api.base_url}", 390) as page:
        page.click("summary")
        link = page.locator("#jobs tbody th a").first
        link.focus()
        page.evaluate("scrollBy(0, -40)")
        place, focused = page.evaluate("[scrollY, document.activeElement.href]")
        page.evaluate("window.mine = document.activeElement")
        job_id = api.post("/api/v1/jobs/parse/", json={"job_description": POSTING, "user_id": 7}).json()["id"]
        page.wait_for_selector(f'[id="job-{job_id}"]')
        rows = page.eval_on_selector_all("#jobs tbody tr", "rows => rows.map(row => row.id)")
        assert rows[0] == f"job-{job_id}" and len(rows) == 2 and first
        assert page.evaluate("document.activeElement === window.mine && document.activeElement.href") == focused
        assert page.evaluate("document.querySelector('details').open")
        assert place > 0 and page.evaluate("scrollY") >= place
        assert page.inner_text("#live") == "live"
        assert page.inner_text(".tile >> nth=0").split()[:2] == ["Waiting", "1"]


def test_the_keyboard_reaches_every_link_and_one_sees_where_it_is(browser: Browser, api: httpx.Client) -> None:
    call(today().isoformat(), created_at=utc_now())
    with looking(browser, f"{api.base_url}") as page:
        reached = set()
        for _ in range(12):
            page.keyboard.press("Tab")
            name, outline = page.evaluate("""() => { const one = document.activeElement;
                return one === document.body ? ["", ""] : [one.textContent.trim(), getComputedStyle(one).outlineWidth];
            }""")
            reached.add(name)
            assert outline == "2px" or not name, name
        assert {"Report of today", "As a table"} <= reached


def test_it_says_when_the_server_is_away_and_goes_on_when_it_is_back(browser: Browser, broker: Any) -> None:
    def serve(port: int) -> tuple[uvicorn.Server, threading.Thread, socket.socket]:
        server, listening = server_of(create_app()), listen("127.0.0.1", port)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        return server, thread, listening

    def stop(server: uvicorn.Server, thread: threading.Thread, listening: socket.socket) -> None:
        server.should_exit = True
        thread.join()
        listening.close()

    running = serve(0)
    port = running[2].getsockname()[1]
    with looking(browser, f"http://127.0.0.1:{port}/") as page:
        stop(*running)
        page.wait_for_selector("#live[data-state=away]")
        assert page.inner_text("#live").startswith("no answer since ")
        call(today().isoformat(), job="after", created_at=utc_now())
        running = serve(port)
        try:
            page.wait_for_selector("#live[data-state=live]")
            page.wait_for_selector("#job-after")
            assert not page.evaluate("document.getElementById('page').classList.contains('stale')")
        finally:
            stop(*running)


def test_it_rests_while_nobody_looks(browser: Browser, api: httpx.Client) -> None:
    asked: list[float] = []
    with looking(browser, f"{api.base_url}") as page:
        page.on("request", lambda _: asked.append(time.monotonic()))
        hide = """hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
                              document.dispatchEvent(new Event('visibilitychange')); }"""
        page.evaluate(hide, True)
        assert page.get_attribute("#live", "data-state") == "paused"
        page.wait_for_timeout(4000)
        before = len(asked)
        page.evaluate(hide, False)
        page.wait_for_selector("#live[data-state=live]")
        assert before <= 1 < len(asked) + 1


def test_without_script_it_loads_itself_again(browser: Browser, api: httpx.Client) -> None:
    with looking(browser, f"{api.base_url}", java_script_enabled=False) as page:
        assert page.get_attribute("meta[http-equiv=refresh]", "content") == "10"
        assert page.locator("#live").is_hidden()


def test_one_signs_in_and_out_again(browser: Browser, tokens: Tokens) -> None:
    token = tokens.headers["reader"]["Authorization"].split()[1]
    with serving() as url, looking(browser, f"{url}/") as page:
        assert page.url.startswith(f"{url}/sign-in/")
        page.wait_for_selector("#token:focus")  # the browser gives it with its next frame, maybe after `load`
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#jobs")
        assert page.url == f"{url}/"
        page.click("text=Sign out")
        page.wait_for_selector("#token")
        page.goto(f"{url}/")
        assert page.url.startswith(f"{url}/sign-in/")


def test_a_session_that_ends_meanwhile_leads_to_signing_in(browser: Browser, tokens: Tokens) -> None:
    token = tokens.headers["reader"]["Authorization"].split()[1]
    with serving() as url, looking(browser, f"{url}/") as page:
        page.fill("#token", token)
        page.click("button")
        page.wait_for_selector("#jobs")
        page.context.clear_cookies()
        page.wait_for_selector("#token")
        wait_until(lambda: "to=%2F" in page.url)
