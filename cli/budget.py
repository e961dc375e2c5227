"""`paymaster budget`: how the budgets stand, and what an operator can do about them; and `paymaster changes`."""

import getpass
import os
import socket
import sys
import time
from dataclasses import replace
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

app = typer.Typer(help="Show how the budgets stand.", invoke_without_command=True)


@app.callback()
def show(
    context: typer.Context,
    user: Annotated[str | None, typer.Option(help="Show this user's daily budget, too.")] = None,
    job: Annotated[str | None, typer.Option(help="Show this job's cap, too; the start of its id is enough.")] = None,
    as_json: Json = False,
) -> None:
    """Show how the budgets stand."""
    if context.invoked_subcommand is not None:
        if as_json:
            raise typer.BadParameter(f"give it after {context.invoked_subcommand}", param_hint="--json")
        return
    from api import views
    from budget.figures import UNCAPPED_KIND
    from budget.ledger import ledger
    from budget.periods import periods_at
    from cli import output
    from cli.find import one_job
    from db.attempts import oddities
    from db.jobs import attempts_of, cost_of
    from db.session import read
    from selection.strategies import find_strategy

    settings = ledger().settings
    job_id, cap, spent = "", None, 0
    if job:
        with read() as session:
            found = one_job(session, job)
            job_id, user = found.id, user or found.user_id
            # before its first call a job has no strategy yet, and embed jobs never have a cap
            made = [] if found.kind == UNCAPPED_KIND else attempts_of(session, job_id)
            cap = next((find_strategy(attempt.strategy).job_cap for attempt in reversed(made)), None)
            spent = cost_of(session, job_id)
    uses = ledger().usage(user_id=user, job_id=job_id, job_cap=cap)
    if cap is not None:
        # the counter of a job that is over may be gone
        uses[-1] = replace(uses[-1], spent=spent)
    with read() as session:
        odd = oddities(session, periods_at(time.time(), settings.budget_timezone).month)
    if as_json:
        output.print_json({"budgets": [views.scope_row(use) for use in uses], **output.oddities_row(odd)})
        return
    output.console.print(output.budget_table(uses, settings))
    for line in output.oddities_lines(odd):
        output.console.print(line, highlight=False)


@app.command("set", context_settings={"ignore_unknown_options": True})  # -5 is no option
def set_(
    scope: Annotated[str, typer.Argument(help="daily, monthly or user.")],
    limit: Annotated[str, typer.Argument(help="USD; 0 stops everything, 'unlimited', or 'default'.")],
    as_json: Json = False,
) -> None:
    """Set a limit for the next admission on, without a restart; `default` sets it back to the environment's."""
    from api import views
    from budget.ledger import ledger
    from budget.limits import set_limit
    from cli import output

    set_limit(scope, limit, whoami())
    uses = ledger().usage(user_id="" if scope == "user" else None)
    (use,) = [use for use in uses if use.name == scope]
    if as_json:
        output.print_json({"scope": scope, "limit_usd": views.scope_row(use)["limit_usd"]})
    else:
        output.console.print(f"From the next admission the {scope} limit is {output.limit_text(use)}.", highlight=False)


@app.command()
def check(as_json: Json = False) -> None:
    """Compare the counters in Redis with SQL; exit status 1 if they differ, 2 if that cannot be told."""
    from budget.compare import differences
    from budget.errors import LedgerError
    from budget.ledger import ledger
    from cli import output

    try:
        found = differences(ledger())
    except LedgerError as error:
        output.errors.print(f"paymaster: {error}", highlight=False)
        sys.exit(2)
    if as_json:
        output.print_json([{"key": one.key, "field": one.field, "redis": one.redis, "sql": one.sql} for one in found])
    elif found:
        rows = [(one.key, one.field, one.redis, one.sql) for one in found]
        columns = ("key", "field", "Redis", "SQL")
        output.console.print(output.table("Differences, amounts in nano-USD", columns, rows, right=columns[2:]))
        output.console.print("SQL is the record: `paymaster budget rebuild` sets Redis right.")
    else:
        output.console.print("Redis and SQL agree to the nano-dollar.")
    sys.exit(1 if found else 0)


@app.command()
def rebuild(
    as_json: Json = False,
    new_zone: Annotated[bool, typer.Option("--new-zone", help="BUDGET_TIMEZONE was changed, and is meant.")] = False,
) -> None:
    """Stop all admissions, rebuild the counters from SQL, and go on; takes about six seconds."""
    from budget.ledger import ledger
    from budget.rebuild import rebuild as rebuild_ledger
    from cli import output

    rebuild_ledger(ledger(), new_zone=new_zone)
    if as_json:
        output.print_json({"rebuilt": True})
    else:
        output.console.print("The counters are rebuilt from SQL.")


@app.command()
def unknown(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 50, as_json: Json = False
) -> None:
    """List the attempts that are charged at their reservations, since nobody knows what they cost."""
    from api import views
    from budget.money import format_usd
    from cli import output
    from db import attempts
    from db.session import read

    with read() as session:
        found = attempts.unknown(session, limit)
    if as_json:
        output.print_json([{"job_id": a.job_id, **views.attempt_row(a)} for a in found])
        return
    rows = [
        (a.id[:12], a.job_id[:8], a.model_name, format_usd(a.cost_nano), f"{a.created_at:%m-%d %H:%M}") for a in found
    ]
    columns = ("attempt", "job", "model", "charged", "started, UTC")
    output.console.print(output.table("Attempts of unknown cost, newest first", columns, rows, right=("charged",)))
    if found:
        output.console.print("`paymaster budget correct ATTEMPT USD` charges what the provider's bill says instead.")


@app.command()
def correct(
    attempt: Annotated[str, typer.Argument(help="The attempt's id; its start is enough.")],
    usd: Annotated[str, typer.Argument(help="What the provider billed for it, in USD.")],
    as_json: Json = False,
) -> None:
    """Put right what an attempt cost, where the provider's own bill says it. That may rebuild the counters, which lets
    no call begin for some seconds."""
    from budget.correct import correct as correct_cost
    from budget.errors import LedgerError
    from budget.money import MoneyError, format_usd, usd_to_nano
    from cli import output
    from cli.find import one_attempt
    from cli.inputs import InputError
    from db.session import read

    with read() as session:
        attempt_id = one_attempt(session, attempt).id
    try:
        cost = usd_to_nano(usd)
    except MoneyError as error:
        raise InputError(f"usd: {error}") from None
    try:
        correct_cost(attempt_id, cost, whoami())
    except LedgerError as error:
        raise InputError(f"noted in the database, but {error}; give the same command again") from None
    if as_json:
        output.print_json({"attempt": attempt_id, "cost_usd": cost / 10**9})
    else:
        output.console.print(f"Attempt {attempt_id} cost {format_usd(cost)}.", highlight=False)


def changes(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 50, as_json: Json = False
) -> None:
    """List what people changed while the system ran: limits, the strategy, costs."""
    from cli import output
    from db.changes import latest
    from db.session import read

    with read() as session:
        found = latest(session, limit)
    rows = [
        {
            "created_at": c.created_at, "who": c.who, "what": c.what, "subject": c.subject, "before": c.before,
            "after": c.after,
        }
        for c in found
    ]  # fmt: skip
    if as_json:
        output.print_json(rows)
        return
    shown = [
        (f"{c.created_at:%Y-%m-%d %H:%M}", c.who, c.what, c.subject, c.before or "default", c.after or "default")
        for c in found
    ]
    columns = ("when, UTC", "who", "what", "of", "from", "to")
    output.console.print(output.folded("Changes, newest first", columns, shown))


def whoami() -> str:
    """Who makes a change, as far as this machine knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container a uid need not have a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
