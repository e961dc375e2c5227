"""`python -m scripts.configuration`: write docs/configuration.md from the settings classes; `--check` only says whether
it is current. What no class holds (Celery's own, providers' keys) stands in `OTHERS` below."""

import sys
from collections.abc import Iterator
from datetime import tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from api.settings import ApiSettings
from budget.settings import BreakerSettings, BudgetSettings
from db.settings import DatabaseSettings
from selection.settings import SelectionSettings
from watch.settings import AlertSettings
from worker.settings import WatchSettings, WorkerSettings

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"
CLASSES: dict[str, type[BaseSettings]] = {
    "Budgets": BudgetSettings,
    "Choosing a model": SelectionSettings,
    "Running jobs": WorkerSettings,
    "Circuit breaker": BreakerSettings,
    "Alerts": AlertSettings,
    "HTTP API": ApiSettings,
    "Logs and metrics": WatchSettings,
    "SQL": DatabaseSettings,
}
OTHERS = {
    "LLM_MODEL_<API>": ("–", "The model of one API of the product, such as `LLM_MODEL_KEYWORDS=gpt41-mini`."),
    "LLM_MODEL_ALLOWED_<API>": ("–", "What jobs of one API may ask for, instead of `LLM_MODEL_ALLOWED`."),
    "OPENAI_API_KEY, ANTHROPIC_API_KEY, AZURE_API_KEY": ("–", "The providers' keys; a registry entry may name others."),
    "OPENAI_API_BASE, ANTHROPIC_API_BASE, AZURE_API_BASE": ("–", "Other addresses of the providers; Azure needs its."),
    "CELERY_BROKER_URL": ("`REDIS_URL`", "The broker."),
    "CELERY_RESULT_BACKEND": (
        "`worker.results.JobBackend+REDIS_URL`",
        "What carries results; keep the prefix, which reads SQL where Redis forgot.",
    ),
    "WORKER_CONCURRENCY": ("100", "Calls in flight per worker process; 1 or more."),
    "PAYMASTER_HOME": (".paymaster", "The folder of the embedded stack, beat's schedule and the spool."),
    "FLOWER_PORT, FLOWER_BASIC_AUTH": ("a free one, made once", "Where Flower listens, and `user:password`."),
    "PROMETHEUS_MULTIPROC_DIR": ("–", "The folder in which the processes of one host share their metrics."),
    "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_…": ("–", "Where traces go; none is made unless one of them is set."),
}
HEAD = """# Configuration

Everything comes from the environment and is checked when a worker starts; a bad value is one sentence that names the
variable, and `paymaster doctor` names them all. This page is generated: `make docs`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join((HEAD, *_sections()))


def _sections() -> Iterator[str]:
    for title, settings in CLASSES.items():
        yield _table(title, (_row(name, field) for name, field in settings.model_fields.items()))
    names = ", ".join
    yield _table(
        "Not ours alone",
        (f"| {names(f'`{part}`' for part in key.split(', '))} | {default} | | {what} |"
         for key, (default, what) in OTHERS.items()),
    )  # fmt: skip


def _table(title: str, rows: Iterator[str]) -> str:
    head = "| variable | default | bounds | what it says |\n| --- | --- | --- | --- |"
    return f"## {title}\n\n{head}\n" + "\n".join(rows) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{name.upper()}` | {_default(field.default)} | {_bounds(field)} | {field.description} |"


def _default(value: Any) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float, Decimal, tzinfo, str)) else repr(value)


def _bounds(field: FieldInfo) -> str:
    words = []
    for bound in field.metadata:
        for kind, sign in ((Ge, "≥"), (Gt, ">"), (Le, "≤"), (Lt, "<")):  # the order in which people read them
            if isinstance(bound, kind):
                words.append(f"{sign} {getattr(bound, kind.__name__.lower())}")
    if "Literal" in str(field.annotation):
        words.append(", ".join(f"`{choice}`" for choice in getattr(field.annotation, "__args__", ())))
    if "SecretStr" in str(field.annotation):
        words.append("secret")
    return ", ".join(words)


def main() -> None:
    """Write it, or check it: exit status 1 if it is not current."""
    if "--check" in sys.argv[1:]:
        sys.exit(0 if FILE.exists() and FILE.read_text() == page() else "docs/configuration.md is old: make docs")
    FILE.write_text(page())


if __name__ == "__main__":
    main()
