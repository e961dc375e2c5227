"""`paymaster db`: the schema, and what is kept."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Upgrade the schema; remove old prompts and results.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def upgrade(as_json: Json = False) -> None:
    """Create or migrate the tables of DATABASE_URL."""
    from cli.output import console, print_json
    from db.migrate import upgrade as migrate
    from db.schema import HEAD

    migrate()
    if as_json:
        print_json({"upgraded": True, "schema": HEAD})
    else:
        console.print(f"The database has the current schema, {HEAD}.", highlight=False)


@app.command()
def prune(
    days: Annotated[int, typer.Option(min=1, max=36_500, help="Of what ended more than so many days ago.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many that would be.")] = False,
    as_json: Json = False,
) -> None:
    """Remove prompts, results and error texts of old jobs, and old alerts; what was paid, and every figure, stays."""
    from cli import output
    from cli.output import console, print_json
    from db import retention

    jobs, alerts = retention.prunable(days) if dry_run else (retention.prune(days), retention.prune_alerts(days))
    if as_json:
        print_json({"days": days, "jobs": jobs, "alerts": alerts, "dry_run": dry_run})
    else:
        were = "would be" if dry_run else "were"
        what = f"The inputs and results of {output.counted(jobs, 'job')}, and {output.counted(alerts, 'alert')},"
        console.print(f"{what} {were} removed.", highlight=False)
