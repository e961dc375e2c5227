"""What the API shows to people: the overview, a page for each job, and signing in."""

import base64
import hashlib
from functools import cache
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Depends, Request
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.access import Caller, caller_of, needs
from api.money import quick_look
from api.problems import Problem
from api.session import COOKIE, HOLDS_S, make_session, may_sign_in
from api.settings import ApiSettings, Role
from budget.settings import BudgetSettings
from db import jobs
from db.environment import read_settings
from db.models import Job
from db.once import once_per_environment
from db.session import read
from watch.overview import Overview, of_job
from watch.render import PAGES, draw
from watch.settings import AlertSettings

Reader = Annotated[Caller, Depends(needs(Role.READ, unbound=True))]
FORM = "application/x-www-form-urlencoded"

# without it, browsers do not say which page a form was sent from
OWN_ORIGIN = {"Referrer-Policy": "same-origin"}

router = APIRouter()


@cache
def _parts() -> dict[str, Markup]:
    def read_all(*names: str) -> Markup:
        text = "\n".join((PAGES / name).read_text(encoding="utf-8") for name in names)
        return Markup(text)  # noqa: S704  # our own

    return {"css": read_all("report.css", "overview.css"), "script": read_all("overview.js")}


@cache
def policy() -> str:
    """What browsers let these pages do: their own style and script, by their hashes, and asking for themselves again.
    Attributes of style hold the sizes of bars, which are numbers."""
    css, script = (
        base64.b64encode(hashlib.sha256(_parts()[name].encode()).digest()).decode() for name in ("css", "script")
    )
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{css}'; style-src-attr 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _page(template: str, status: int = 200, *, live: bool = False, **shown: Any) -> Response:
    percent = f"{(read_settings(BudgetSettings).cost_alert_threshold * 100).normalize():f}"
    text = draw(template, percent, live=live, **_parts(), **shown)
    return HTMLResponse(text, status, {"Content-Security-Policy": policy(), **OWN_ORIGIN})


@once_per_environment
def _overview() -> Overview:
    return Overview(quick_look().ledger)


@router.get("/")
def show_overview(request: Request, caller: Reader) -> Response:
    """How everything stands now."""
    settings = read_settings(ApiSettings)
    session = caller.name if settings.api_tokens and COOKIE in request.cookies else None
    return _page("overview.html", live=True, f=_overview().figures(), flower=settings.flower_url, session=session)


@router.get("/jobs/{job_id}")
@router.get("/jobs/{job_id}/")
def show_job(caller: Reader, job_id: str) -> Response:
    """One job and its calls, without what was asked and answered."""
    if not job_id.isprintable():
        return _page("missing.html", 404)
    with read() as session:
        job = session.get(Job, job_id)
        if job is None:
            return _page("missing.html", 404)
        found = of_job(job, [*jobs.attempts_of(session, job_id)])
        return _page("job.html", live=not found["final"], f=found)


@router.get("/sign-in/")
def show_sign_in(to: str = "/") -> Response:
    """Where a browser gives a token."""
    return _page("sign-in.html", to=to, refusal=None)


@router.post("/sign-in/")
async def sign_in(request: Request) -> Response:
    """Take a token, and give a session for it."""
    _from_our_own_page(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Problem(415, "unsupported_media_type", f"Content-Type: give {FORM}")
    try:
        fields = parse_qs((await request.body()).decode("ascii"), max_num_fields=10)
    except ValueError:
        raise Problem(400, "bad_request", "the body is no form") from None
    given, to = (fields.get(name, [""])[-1] for name in ("token", "to"))
    tokens = read_settings(ApiSettings).api_tokens
    try:
        caller = caller_of(f"Bearer {given}", tokens)
    except Problem:
        return _page("sign-in.html", 401, to=to, refusal="That is no token that API_TOKENS knows.")
    token = next(one for one in tokens if one.name == caller.name and one.roles == caller.roles)
    if not may_sign_in(token):
        sentence = f"The token {token.name} may not read everything: it is bound to one user, or lacks the role read."
        return _page("sign-in.html", 403, to=to, refusal=sentence)
    answer = RedirectResponse(_inside(to), 303)
    # lax: links of mail and of Flower are followed signed in; it opens GET only, and what changes asks where it is from
    answer.set_cookie(COOKIE, make_session(token), HOLDS_S, httponly=True, samesite="lax", secure=_is_secure(request))
    return answer


@router.post("/sign-out/")
def sign_out(request: Request) -> Response:
    """Forget the session."""
    _from_our_own_page(request)
    answer = RedirectResponse("/sign-in/", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=_is_secure(request))
    return answer


def _is_secure(request: Request) -> bool:
    address = read_settings(AlertSettings).public_url or ""
    return request.url.scheme == "https" or address.startswith("https://")


def _inside(to: str) -> str:
    """A path of ours; of anything else the overview's."""
    inside = to.startswith("/") and not to.startswith(("//", "/\\", "/sign-")) and to.isascii() and to.isprintable()
    return to if inside else "/"


def _from_our_own_page(request: Request) -> None:
    site, origin = (request.headers.get(name) for name in ("sec-fetch-site", "origin"))
    if site not in (None, "same-origin") or (origin and urlsplit(origin).netloc != request.headers.get("host")):
        raise Problem(403, "forbidden", "the request comes from another site's page")
