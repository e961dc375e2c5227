"""The daily cost reports and the metrics over HTTP."""

from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import PlainTextResponse, Response

from api import schemas
from api.access import Caller, needs
from api.docs import answers
from api.problems import Problem
from api.reading import answer, pack, unpack
from api.settings import Role
from db import reports
from db.session import read
from watch import metrics, report

MEDIA_TYPES = {
    "json": "application/json", "html": "text/html; charset=utf-8", "csv": "text/csv; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
}  # fmt: skip
# the page has no script and loads nothing; of its style it has one element and many attributes
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

Reader = Annotated[Caller, Depends(needs(Role.READ, unbound=True))]

router = APIRouter(prefix="/reports", tags=["reports"])
metrics_router = APIRouter(tags=["health"])


def _also(described: dict[str, Any], *media_types: str) -> dict[str, Any]:
    texts = {one.partition(";")[0]: {"schema": {"type": "string"}} for one in media_types}
    described["responses"][200].setdefault("content", {}).update(texts)
    return described


@router.get("/", **answers(200, schemas.Reports))
def list_reports(
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=100, description="`next` of the page before.")] = None,
) -> Response:
    """The days whose reports are written, the latest first."""
    (before,) = unpack(cursor, str) if cursor is not None else (None,)
    with read() as session:
        found = reports.written(session, before, limit + 1)
    rows = [
        {"day": day, "written_at": written_at, "url": f"/api/v1/reports/{day}/"} for day, written_at in found[:limit]
    ]
    return answer({"reports": rows, "next": pack(rows[-1]["day"]) if len(found) > limit else None})


@router.get("/{day}/", **_also(answers(200, schemas.Report, 404), *MEDIA_TYPES.values()))
def get_report(
    caller: Reader,
    day: date,
    form: Annotated[
        Literal["json", "html", "csv", "md"] | None, Query(alias="format", description="Instead of `Accept`.")
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """What a day cost; today's is as it stands now. By `format`, else by what `Accept` prefers, else JSON."""
    if day > report.today():
        raise Problem(422, "parameter", f"day: {day} is yet to come; today is {report.today()}", field="day")
    if day.year < 1970:
        raise Problem(422, "parameter", "day: give one from 1970 on", field="day")
    figures = report.figures_of(day)
    if not figures["total"]["calls"] and day != report.today() and report.stored(day) is None:
        raise Problem(404, "not_found", f"there is no report of {day}: nothing was called on it")
    form = form or preferred(accept)
    policy = {"Content-Security-Policy": POLICY} if form == "html" else {}
    return Response(report.render(figures, form), headers=policy, media_type=MEDIA_TYPES[form])


def preferred(accept: str) -> Literal["json", "html", "csv", "md"]:
    """The format that a header `Accept` likes best, by its weights and then by its order; JSON if it names none."""
    weighed: list[tuple[float, int, Any]] = []
    forms = {media.partition(";")[0]: form for form, media in MEDIA_TYPES.items()} | {"text/*": "html"}
    for place, part in enumerate(accept.lower().split(",")):
        name, *parameters = (word.strip() for word in part.split(";"))
        try:
            weight = next((float(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
        except ValueError:
            continue
        form = forms.get(name)
        if form and weight > 0:
            weighed.append((-weight, place, form))
    return min(weighed)[2] if weighed else "json"


@metrics_router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={**answers(200, schemas.Health)["responses"], 200: {"description": "Figures."}},
)
def get_metrics(caller: Reader) -> Response:
    """All metrics in the text format of Prometheus."""
    return PlainTextResponse(metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})
