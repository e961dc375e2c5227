"""`paymaster alerts`: what was alerted of, whether it is over, and how it reached people."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from db.models import Alert, Delivery

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

app = typer.Typer(help="List the latest alerts, newest first.", invoke_without_command=True)


@app.callback()
def show(
    context: typer.Context,
    only_open: Annotated[bool, typer.Option("--open", help="Only what is not over.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 50,
    as_json: Json = False,
) -> None:
    """List the latest alerts, newest first."""
    if context.invoked_subcommand is not None:
        if as_json:
            raise typer.BadParameter(f"give it after {context.invoked_subcommand}", param_hint="--json")
        return
    from rich.markup import escape

    from cli import output
    from db.alerts import latest
    from db.session import read

    with read() as session:
        rows = [_row(alert, ways) for alert, ways in latest(session, limit, only_open=only_open)]
    if as_json:
        output.print_json(rows)
        return
    for row in rows:
        output.console.print(
            f"{row['created_at']:%m-%d %H:%M} UTC  {'over' if row['cleared_at'] else '[red]open[/]'}  "
            f"[bold]{row['kind']}[/] of {escape(row['subject'])}, {row['period']}, at {row['threshold']}\n"
            f"  {escape(row['message'])}\n  {_ways_text(row['deliveries'])}\n",
            highlight=False,
        )
    if not rows:
        output.console.print("Alerts: none")


def _row(alert: "Alert", ways: "Sequence[Delivery]") -> dict[str, Any]:
    names = ("id", "kind", "subject", "period", "threshold", "message", "created_at", "cleared_at")
    return {
        **{name: getattr(alert, name) for name in names},
        "deliveries": [
            {"channel": way.channel, "state": _state(way), "tries": way.tries, "sent_at": way.sent_at,
             "due_at": way.due_at, "error": way.error}
            for way in ways
        ],
    }  # fmt: skip


def _state(way: "Delivery") -> str:
    if way.sent_at is not None:
        return "sent"
    return "waiting" if way.due_at is not None else "given up"


def _ways_text(ways: list[dict[str, Any]]) -> str:
    """What each channel did, with what went wrong."""
    from rich.markup import escape

    lines = [
        f"{way['channel']}: {way['state']}" + (f" ({way['tries']} tries, {way['error']})" if way["error"] else "")
        for way in ways
    ]
    return escape("; ".join(lines)) or "waiting to be sent"


@app.command("test")
def send_test(as_json: Json = False) -> None:
    """Send a test message over every channel of this environment; exit status 1 if one did not take it."""
    from cli import output
    from db.environment import read_settings
    from watch.channels import Undelivered, send, trial
    from watch.settings import AlertSettings

    told = {}
    for channel in read_settings(AlertSettings).channels:
        try:
            told[channel] = send(channel, trial()) or "sent"
        except Undelivered as error:
            told[channel] = f"not sent: {error}"
    if as_json:
        output.print_json(told)
    else:
        for channel, outcome in told.items():
            output.console.print(f"{channel}: {outcome}", highlight=False, markup=False)
    sys.exit(1 if any(outcome.startswith("not sent") for outcome in told.values()) else 0)
