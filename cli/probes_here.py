"""What `paymaster doctor` looks at on this machine: settings, models, keys, files."""

import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic_settings import BaseSettings
from sqlalchemy.exc import SQLAlchemyError

from budget.settings import BudgetSettings
from cli.findings import Finding, error, note, ok, warning
from cli.probes import embedded
from db.environment import SettingsError, read_settings

# for the schedule, logs, the spool, and SQLite where that is the database
LITTLE_DISK, NO_DISK = 1 << 30, 100 << 20
# a call holds a connection to its provider, one to Redis and for moments one to SQL; the rest is the process' own
FILES_PER_CALL, FILES_BESIDE = 3, 150
# a worker writes what it spooled to SQL by itself within seconds
SPOOL_LATE_S = 60


def settings() -> Iterator[Finding]:
    """Every variable, and those that contradict each other."""
    from cli.shared import settings_classes
    from db.settings import DatabaseSettings
    from worker.checks import check_settings

    faults: dict[str, None] = {}
    classes: list[type[BaseSettings]] = [*settings_classes(), DatabaseSettings]
    for one in classes:
        try:
            read_settings(one)
        except SettingsError as fault:
            faults[str(fault)] = None
    try:
        check_settings()
    except ValueError as fault:
        faults[str(fault)] = None
    for sentence in faults:
        yield error("settings", sentence, "Set it right; docs/configuration.md lists every variable.")
    if not faults:
        yield ok("settings", "every variable can be used")


def limits() -> dict[str, int | None]:
    """The limits that hold, in nano-USD by name of scope: those set by hand where SQL can say so."""
    from budget.limits import limits_in_force
    from budget.money import MAX_NANO
    from db.session import read

    budget = read_settings(BudgetSettings)
    found = {
        "daily": budget.daily_budget_usd,
        "monthly": budget.monthly_budget_usd,
        "user": budget.max_cost_per_user_daily_usd,
    }
    try:
        with read() as session:
            by_hand, _ = limits_in_force(session)
    except (SQLAlchemyError, OSError):
        by_hand = {}
    return found | {name: None if nano == MAX_NANO else nano for name, nano in by_hand.items()}


def agreement() -> Iterator[Finding]:
    """Settings that contradict each other."""
    from selection.settings import SelectionSettings
    from selection.strategies import find_strategy
    from watch.settings import AlertSettings
    from worker.settings import WorkerSettings

    found = limits()
    for smaller, larger in (("daily", "monthly"), ("user", "daily")):
        if _above(found[smaller], found[larger]):
            yield warning(
                "budgets", f"the {smaller} limit is above the {larger} limit, and never reached",
                f"`paymaster budget set {smaller} USD`, or set its variable.",
            )  # fmt: skip
    for name, limit in found.items():
        if limit == 0:
            yield warning("budgets", f"the {name} limit is 0: no job can run", f"`paymaster budget set {name} USD`.")
    if all(limit is None for limit in found.values()):
        yield warning("budgets", "no limit is set at all", "`paymaster budget set daily USD`.")
    strategy = find_strategy(read_settings(SelectionSettings).model_selection_strategy)
    if any(_above(strategy.job_cap, limit) for limit in found.values() if limit):
        yield warning(
            "budgets", f"one generation under {strategy.name} may cost more than a limit allows",
            "Raise the limit, or take a cheaper strategy.",
        )  # fmt: skip
    alerts, first = read_settings(AlertSettings), read_settings(BudgetSettings).cost_alert_threshold
    if alerts.cost_alert_thresholds and min(alerts.cost_alert_thresholds) < first:
        yield warning(
            "alerts", f"COST_ALERT_THRESHOLDS has a share below COST_ALERT_THRESHOLD ({first}), which is meant to be "
            "the first", "Set COST_ALERT_THRESHOLD to the lowest.",
        )  # fmt: skip
    worker = read_settings(WorkerSettings)
    if worker.worker_shutdown_s < worker.llm_call_deadline_s:
        yield note(
            "settings", f"a stop cuts calls after WORKER_SHUTDOWN_S ({worker.worker_shutdown_s:g} s), and a call may "
            f"take {worker.llm_call_deadline_s:g} s; what is cut is charged at its reservation",
            "Raise it above LLM_CALL_DEADLINE_S where the supervisor waits that long.",
        )  # fmt: skip


def _above(one: int | None, other: int | None) -> bool:
    return other is not None and (one is None or one > other)


def models() -> Iterator[Finding]:
    """The models that jobs may come to: whether there is a key, a price, and a provider that still has them."""
    from datetime import UTC, datetime

    from selection.registry import load_registry

    registry = load_registry()
    today = datetime.now(UTC).date()
    used = _models_in_use()
    without: dict[str, list[str]] = {}
    for name, why in sorted(used.items()):
        model = registry.models[name]
        provider = registry.provider_of(model)
        needed = [model.api_key_env or provider.api_key_env]
        if provider.api_base_required and not model.api_base and provider.api_base_env:
            needed.append(provider.api_base_env)
        for variable in needed:
            if not os.environ.get(variable):
                without.setdefault(variable, []).append(name)
        if model.over(today):
            yield warning(
                "models", f"{name} ({why}) is past its deprecation date, {model.deprecated}, and is passed over",
                "Name another model there (docs/models.md).",
            )  # fmt: skip
        if not (model.price.input or model.price.output) and model.api_base is None:
            yield warning(
                "models", f"{name} ({why}) has no price: no budget holds it back",
                "Give its price in MODEL_REGISTRY_FILE (docs/models.md).",
            )  # fmt: skip
    missing = {name for names in without.values() for name in names}
    for variable, names in without.items():
        level = error if missing >= set(used) else warning
        yield level(
            "keys", f"{variable} is not set, so {', '.join(names)} cannot be called",
            "Set it where the workers start (that may be elsewhere); jobs take the next model of their chain.",
        )  # fmt: skip
    if not without:
        yield ok("keys", f"there is one for each of the {len(used)} models in use")


def _models_in_use() -> dict[str, str]:
    """Model id -> where it is named, of all that jobs without a wish of their own may come to."""
    from selection.registry import load_registry
    from selection.settings import SelectionSettings
    from selection.strategies import find_strategy
    from worker.strategy import strategy_in_force

    chosen = read_settings(SelectionSettings)
    try:
        current = strategy_in_force()
    except SQLAlchemyError:
        current = chosen.model_selection_strategy
    found: dict[str, str] = {}
    for name in (current, *(name for name, _ in chosen.model_split_test)):
        strategy = find_strategy(name)
        ladders = [ladder.values() for ladder in strategy.models.values()]
        for model in (*(model for ladder in ladders for model in ladder), *strategy.fallback.values()):
            found.setdefault(model, f"strategy {name}")
    for variable, models in chosen.named_models.items():
        for model in models if "ALLOWED" not in variable else ():
            if (known := load_registry().find(model)) is not None:
                found.setdefault(known.id, variable)
    return found


def files() -> Iterator[Finding]:
    """PAYMASTER_HOME: whether there is room, and what waits in the spool; and how many files may be open."""
    home = Path(os.environ.get("PAYMASTER_HOME", ".paymaster")).absolute()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        yield error("disk", f"{there} cannot be written by this user", "Set PAYMASTER_HOME, or its owner, right.")
    free = shutil.disk_usage(there).free
    if free < LITTLE_DISK:
        level = error if free < NO_DISK else warning
        yield level("disk", f"{free >> 20} MiB are free for PAYMASTER_HOME ({there})", "Make room.")
    else:
        yield ok("disk", f"{free >> 30} GiB are free for PAYMASTER_HOME")
    yield from _spool(home / "spool")
    yield from _open_files()


def _spool(folder: Path) -> Iterator[Finding]:
    found = list(folder.glob("*")) if folder.exists() else []
    bad = [file for file in found if file.suffix == ".bad"]
    late = [file for file in found if file.suffix in (".json", ".part") and _age(file) > SPOOL_LATE_S]
    if bad:
        yield error(
            "spool", f"{len(bad)} outcomes of paid calls cannot be written to SQL ({folder}/*.bad)",
            "See the worker's log for why; rename one to .json to have it tried again. Their reservations are charged.",
        )  # fmt: skip
    if late:
        yield warning(
            "spool", f"{len(late)} outcomes of paid calls wait for SQL in {folder}",
            "They are written as soon as SQL is back and a worker of this machine runs.",
        )  # fmt: skip


def _age(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:  # written meanwhile
        return 0


def _open_files() -> Iterator[Finding]:
    from worker.app import app

    calls = int(app.conf.worker_concurrency)
    needed, allowed = FILES_PER_CALL * calls + FILES_BESIDE, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        yield warning(
            "open files", f"{allowed} may be open here; a worker with {calls} calls in flight wants {needed}",
            f"`ulimit -n {needed}` where workers start (LimitNOFILE= for systemd), or lower WORKER_CONCURRENCY.",
        )  # fmt: skip


def people() -> Iterator[Finding]:
    """Who hears of alerts, and who may use the API."""
    from api.settings import ApiSettings
    from watch.settings import AlertSettings

    channels = [name for name in read_settings(AlertSettings).channels if name != "log"]
    if channels:
        yield ok("alerts", f"go to {', '.join(channels)} as well as to the log")
    else:
        level = note if embedded() else warning
        yield level("alerts", "go to the log alone", "Set ALERT_WEBHOOK_URL or ALERT_EMAIL_TO (docs/operations.md).")
    if not read_settings(ApiSettings).api_tokens:
        yield note("api", "no API_TOKENS: it serves this machine only", "`paymaster api-token NAME` makes one.")
