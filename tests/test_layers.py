"""The shape of the project: imports point downward only, and the README's table of settings is true."""

import ast
import os
import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from db.settings import DatabaseSettings
from scripts.configuration import CLASSES, FILE, page

ROOT = Path(__file__).parents[1]
LAYERS = ("cli", "api", "simulator", "tasks", "watch", "worker", "selection", "budget", "db")


def imported_by(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names & set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_downward_only_and_nobody_imports_the_simulator(layer: str) -> None:
    below = set(LAYERS[LAYERS.index(layer) :]) - ({"simulator"} if layer != "simulator" else set())
    for file in (ROOT / layer).rglob("*.py"):
        assert imported_by(file) <= below, file


def test_only_the_gateway_imports_litellm() -> None:
    importing = [
        str(file.relative_to(ROOT))
        for layer in LAYERS
        for file in (ROOT / layer).rglob("*.py")
        if any(line.strip().startswith(("import litellm", "from litellm")) for line in file.read_text().splitlines())
    ]
    assert importing == ["worker/gateway.py"]


def test_the_page_of_settings_is_generated_and_holds_every_class() -> None:
    assert page() == FILE.read_text(), "make docs"
    from cli.shared import settings_classes

    assert set(CLASSES.values()) == {*settings_classes(), DatabaseSettings}


def test_the_readme_names_settings_that_exist() -> None:
    table = (ROOT / "README.md").read_text().partition("## Configuration")[2].partition("\nModels and prices")[0]
    named = set(re.findall(r"`([A-Z][A-Z_]{4,})`", table))
    assert len(named) > 9
    assert named <= set(re.findall(r"`([A-Z][A-Z_]{4,})`", FILE.read_text()))


@pytest.mark.parametrize("settings", [*CLASSES.values()])
def test_no_settings_show_a_secret(settings: type[BaseSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    word = "0123456789abcdef" * 4
    secret = {
        "REDIS_URL": f"redis://u:{word}@h/0", "DATABASE_URL": f"postgresql://u:{word}@h/x", "SMTP_PASSWORD": word,
        "ALERT_WEBHOOK_SECRET": word, "ALERT_WEBHOOK_URL": f"https://example.com/{word}", "SMTP_USER": "u",
        "API_TOKENS": f"shop:submit:{word}",
    }  # fmt: skip
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    made = settings()
    assert word not in repr(made) + str(made) and repr(bytes.fromhex(word)) not in repr(made)
    hidden = {name.upper() for name, field in settings.model_fields.items()
              if not field.repr or "SecretStr" in str(field.annotation)}  # fmt: skip
    assert hidden == {name.upper() for name in settings.model_fields} & (secret.keys() - {"SMTP_USER"})


def test_a_stack_shows_none_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cli.stack import Stack

    monkeypatch.setenv("SMTP_PASSWORD", "Xq9secretword")
    stack = Stack(tmp_path, simulate=True)
    assert stack.environment["SMTP_PASSWORD"] == "Xq9secretword" and "Xq9" not in repr(stack)


def test_selection_reads_no_file_or_network_on_the_way_of_a_job() -> None:
    for file in (ROOT / "selection").glob("*.py"):
        foreign = {"redis", "sqlalchemy", "requests", "httpx", "celery", "litellm", "tiktoken"}
        assert not foreign & imported_words(file.read_text()), file


def imported_words(text: str) -> set[str]:
    return {word for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom | ast.Import)
            for word in ast.unparse(node).replace(".", " ").split()}  # fmt: skip


def test_celery_knows_every_setting_that_we_give_it() -> None:
    from celery.app.defaults import SETTING_KEYS

    import celeryconfig

    given = {name for name in vars(celeryconfig) if name.islower() and not name.startswith("_") and name != "os"}
    assert given <= SETTING_KEYS


def test_importing_the_tasks_is_light() -> None:
    """Whoever only submits pays neither for litellm nor for the tokenizers (seconds: `make bench-enqueue`)."""
    import json
    import subprocess
    import sys

    # not getrusage: it counts what the parent held before the exec
    program = (
        "import json, pathlib, sys; from tasks import parse; status = pathlib.Path('/proc/self/status'); "
        "peak = [line.split()[1] for line in status.read_text().splitlines() if line.startswith('VmHWM')] "
        "if status.exists() else [0]; "
        "print(json.dumps([sorted(sys.modules), int(peak[0])]))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=os.environ)
    modules, kibibytes = json.loads(told.stdout)
    heavy = {"litellm", "tiktoken", "openai", "aiohttp", "httpx", "alembic", "flower", "rich"}
    # redis-py imports OpenTelemetry by itself where it is installed, but not what sends
    watching = {"prometheus_client", "structlog", "opentelemetry.exporter", "fastapi", "pygal", "jinja2"}
    assert not (heavy | watching) & set(modules)
    assert kibibytes < 80 * 1024
