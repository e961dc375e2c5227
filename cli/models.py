"""`paymaster models` and `paymaster models check`."""

import json
import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

from budget.breaker import BreakerState, breakers
from budget.errors import LedgerError
from budget.ledger import ledger
from cli import output
from cli.output import console, print_json
from db.environment import SettingsError
from db.models import utc_now
from selection.registry import LongContext, Model, Price, Registry, load_registry
from worker.tokens import litellm_folder

# of the table of models, on a terminal that does not hold all of it; --json has everything
NARROW_COLUMNS = 5
PER_TOKEN = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
SIZES = {"context": "max_input_tokens", "max_output": "max_output_tokens", "dimensions": "output_vector_size"}
_LONG = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")


def show_models(*, as_json: bool) -> None:
    """The registry."""
    registry = load_registry()
    states = _breakers(list(registry.models))
    if as_json:
        print_json([m.model_dump(mode="json") | {"breaker": states.get(m.id)} for m in registry.models.values()])
        return
    columns = ("model", "provider", "input $/M", "output $/M", "context", "kind", "best for", "also called")
    rows = [
        (
            m.id, m.provider, m.price.input, m.price.output, f"{m.context:,}",
            m.kind, ", ".join(m.best_for), ", ".join(m.aliases),
        )
        for m in registry.models.values()
    ]  # fmt: skip
    shown = len(columns) if console.width >= output.WIDE else NARROW_COLUMNS
    rows_shown = [row[:shown] for row in rows]
    console.print(output.table("Models", columns[:shown], rows_shown, right=columns[2:5]))
    for model, told in states.items():
        if told["state"] != BreakerState.CLOSED:
            console.print(f"The breaker of {model} is {told['state']} until {told['until']}.", highlight=False)


def _breakers(models: list[str]) -> dict[str, dict[str, Any]]:
    """How the models' breakers stand; nothing if the ledger's Redis cannot be asked."""
    try:
        found = breakers(ledger().client, models)
    except (LedgerError, SettingsError):
        return {}
    return {one.model: one.row for one in found}


def check_models(*, as_json: bool) -> int:
    """What the registry says otherwise than litellm's price map, and what is or will be switched off. Exit status 1
    if there is anything."""
    findings = list(compare(load_registry(), bundled_prices(), utc_now().date()))
    if as_json:
        print_json(findings)
    elif not findings:
        console.print("The registry and litellm's price map agree.")
    else:
        columns: tuple[str, ...] = ("model", "finding", "field", "registry", "litellm")
        rows = [["-" if found[name] is None else str(found[name]) for name in columns] for found in findings]
        if console.width < output.WIDE:
            # two lines a finding: litellm's names are long
            rows = [[model, finding, field, f"{ours}\n{theirs}"] for model, finding, field, ours, theirs in rows]
            columns = (*columns[:3], "registry\nlitellm")
        console.print(output.table("To look at", columns, rows))
    return 1 if findings else 0


def bundled_prices() -> dict[str, dict[str, Any]]:
    """litellm's price map, as the installed package carries it: what it would use without a network."""
    path = litellm_folder() / "model_prices_and_context_window_backup.json"
    prices: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    return prices


def compare(registry: Registry, prices: dict[str, dict[str, Any]], today: date) -> Iterator[dict[str, Any]]:
    """What to look at: `model`, `finding` (`missing`, `differs`, `deprecated` or `switched off`), `field`, and what
    the registry and litellm say of it (prices in USD per million tokens, sizes in tokens). A server of our own is
    nobody's business."""
    for model in registry.models.values():
        if model.api_base is not None:
            continue
        names = (model.base_model,) if model.base_model else (model.litellm, model.wire_name)
        entry = next((prices[name] for name in names if name in prices), None)
        told = (entry or {}).get("deprecation_date")
        days = (model.deprecated, date.fromisoformat(told) if told else None)
        if ends := [day for day in days if day]:
            finding = "switched off" if min(ends) <= today else "deprecated"
            yield _finding(model, finding, "deprecated", *days)
        if entry is None:
            yield _finding(model, "missing", "model", model.base_model or model.litellm, None)
        else:
            yield from _differences(model, entry)


def _differences(model: Model, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    ours, theirs = _prices("price.", model.price, entry, "")
    ours |= {name: getattr(model, name) for name in SIZES if getattr(model, name)}
    theirs |= {name: entry.get(field) for name, field in SIZES.items()}
    tiers = sorted(int(found[1]) for name in entry if (found := _LONG.fullmatch(name)))
    # a tier that begins where the context ends is never reached
    tier = next((thousands for thousands in tiers if 1000 * thousands < model.context), None)
    if tier is not None or model.long_context is not None:
        ours["long_context.above"] = model.long_context.above if model.long_context else None
        theirs["long_context.above"] = 1000 * tier if tier else None
    if tier is not None and model.long_context is not None:
        long = _prices("long_context.", model.long_context, entry, f"_above_{tier}k_tokens")
        ours, theirs = ours | long[0], theirs | long[1]
    for field in ours | theirs:
        silent = theirs.get(field) is None and not field.startswith("long_context.above")
        if not silent and ours.get(field) != theirs[field]:
            yield _finding(model, "differs", field, ours.get(field), theirs[field])


def _prices(
    table: str, price: Price | LongContext, entry: dict[str, Any], suffix: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The registry's prices and litellm's, by field, in USD per million tokens."""
    ours = {table + name: getattr(price, name) for name in PER_TOKEN}
    theirs = {table + name: entry.get(field + suffix) for name, field in PER_TOKEN.items()}
    return ours, {name: None if told is None else Decimal(told) * 1_000_000 for name, told in theirs.items()}


def _finding(model: Model, finding: str, field: str, ours: Any, theirs: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return f"{value.normalize():f}" if isinstance(value, Decimal) else value

    return {"model": model.id, "finding": finding, "field": field, "registry": plain(ours), "litellm": plain(theirs)}
