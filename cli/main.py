"""The `paymaster` command."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import alerts, budget, database, strategy
from cli.refusals import refusal
from cli.stack import use_running_stack
from worker.queues import OF_KINDS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="LLM jobs as ordinary Celery tasks, with budgets that cannot be overrun.",
)

jobs_app = typer.Typer(help="List the latest jobs.")
app.add_typer(jobs_app, name="jobs")

KINDS = f"{', '.join(OF_KINDS)}."
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def demo(
    as_json: Json = False,
    keep: Annotated[Path | None, typer.Option(help="Keep the database and the logs in this folder.")] = None,
) -> None:
    """Run a batch of jobs through a stack of its own, on simulated providers, and check the bill."""
    from cli.demo import run_demo

    run_demo(as_json=as_json, keep=keep)


@app.command()
def up(
    as_json: Json = False,
    simulate: Annotated[
        bool | None,
        typer.Option("--simulate/--real", help="Simulated or real providers; by default real ones if a key is set."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Calls in flight per worker.")] = 100,
) -> None:
    """Run the embedded stack in the foreground until Ctrl-C."""
    from cli.up import run_up

    run_up(as_json=as_json, simulate=simulate, concurrency=concurrency)


@app.command()
def submit(
    kind: Annotated[str, typer.Argument(help=KINDS)],
    paths: Annotated[list[str], typer.Argument(help="Text, JSON and JSONL files, folders, or - for stdin.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all are over; show a single result.")] = False,
    user: Annotated[str | None, typer.Option(help="The user the jobs are for.")] = None,
    api: Annotated[str | None, typer.Option(help="Which API of the product submits them.")] = None,
    on_budget: Annotated[str | None, typer.Option(help="Without room: downgrade, reject or defer.")] = None,
    model: Annotated[str | None, typer.Option(help="The model to use.")] = None,
    strategy: Annotated[str | None, typer.Option(help="The strategy to use.")] = None,
    artifacts: Annotated[
        Path | None, typer.Option(help="For generate: a JSON list of objects, or a résumé in the JSON Resume schema.")
    ] = None,
    tone: Annotated[str | None, typer.Option(help="For generate: the tone, such as creative.")] = None,
    use_case: Annotated[str | None, typer.Option(help="For embed: the use case.")] = None,
    as_json: Json = False,
) -> None:
    """Submit jobs from files or standard input."""
    from cli.submit import Options, run_submit

    common = {"user_id": user, "api": api, "model": model, "strategy": strategy, "on_budget": on_budget}
    options = Options(
        common={name: value for name, value in common.items() if value is not None},
        artifacts=artifacts,
        preferences={"tone": tone} if tone else {},
        use_case=use_case,
    )
    sys.exit(run_submit(kind, paths, options, wait=wait, as_json=as_json))


@app.command()
def job(job_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Show one job: its attempts, its cost and its result."""
    from cli.show import show_job

    show_job(job_id, as_json=as_json)


@jobs_app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context,
    state: Annotated[
        str | None, typer.Option(help="queued, running, waiting, deferred, succeeded, failed, cancelled.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help=KINDS)] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    api: Annotated[str | None, typer.Option(help="Only this API's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 50,
    as_json: Json = False,
) -> None:
    """List the latest jobs."""
    if context.invoked_subcommand is not None:
        return
    from cli.show import show_jobs

    show_jobs(state=state, kind=kind, user_id=user, api=api, limit=limit, as_json=as_json)


@jobs_app.command()
def retry(job_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Let a failed or cancelled job run once more; its attempts and its cost stay."""
    from cli.show import retry_job

    retry_job(job_id, as_json=as_json)


models = typer.Typer(invoke_without_command=True)
app.add_typer(models, name="models")


@models.callback()
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List the models that jobs may run on, with their prices."""
    if context.invoked_subcommand is None:
        from cli.models import show_models

        show_models(as_json=as_json)


@models.command("check")
def check_models(as_json: Json = False) -> None:
    """Compare the registry with litellm's price map; status 1 if there is something to look at."""
    from cli.models import check_models

    sys.exit(check_models(as_json=as_json))


@app.command()
def strategies(
    days: Annotated[int, typer.Option(min=1, max=3650, help="Of jobs that are no older.")] = 30, as_json: Json = False
) -> None:
    """Show what jobs came to under each strategy: success, cost, quality and time."""
    from cli.show import show_strategies

    show_strategies(days=days, as_json=as_json)


@app.command()
def costs(
    days: Annotated[int, typer.Option(min=1, max=3650, help="Of so many days, today included.")] = 30,
    by: Annotated[str, typer.Option(help="day, user, model, api, strategy or kind.")] = "day",
    as_json: Json = False,
) -> None:
    """Show what the last days cost, and what one generation did."""
    from cli.costs import show_costs

    show_costs(days=days, by=by, as_json=as_json)


@app.command()
def report(
    day: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATE]", help="YYYY-MM-DD, today or yesterday; yesterday, or today where nothing is older."
        ),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="html, json, csv, md or text; by default as the file's suffix says.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show what a day cost: against budgets, by model, strategy, API and user, and against the models before."""
    from cli.report import run_report

    run_report(day, "json" if as_json else form, out)


@app.command()
def replay(
    paths: Annotated[list[str], typer.Argument(help="Postings: text, JSON and JSONL files, folders, or - for stdin.")],
    strategy: Annotated[list[str] | None, typer.Option(help="Only this strategy; may be given again.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="All jobs on this model; may be given again.")] = None,
    against: Annotated[str, typer.Option(help="The strategy or model that savings are counted against.")] = "legacy",
    artifacts: Annotated[Path | None, typer.Option(help="As for submit generate.")] = None,
    tone: Annotated[str | None, typer.Option(help="As for submit generate.")] = None,
    parse_answer: Annotated[int, typer.Option(min=0, help="Tokens that an answer to parse is taken to have.")] = 430,
    generate_answer: Annotated[int, typer.Option(min=0, help="The same for generate.")] = 700,
    as_json: Json = False,
) -> None:
    """Price the same jobs under each strategy, without calling anyone."""
    from cli.inputs import read_artifacts
    from cli.replay import run_replay

    sys.exit(
        run_replay(
            paths,
            strategies=strategy or [],
            models=model or [],
            against=against,
            artifacts=read_artifacts(artifacts),
            preferences={"tone": tone} if tone else {},
            answers={"parse": parse_answer, "generate": generate_answer},
            as_json=as_json,
        )
    )


app.add_typer(budget.app, name="budget")
app.add_typer(alerts.app, name="alerts")
app.add_typer(strategy.app, name="strategy")
app.add_typer(database.app, name="db")
app.command()(budget.changes)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at everything that can be wrong, and say what to do; exit status 1 with warnings, 2 with errors."""
    from cli.doctor import run_doctor

    sys.exit(run_doctor(as_json=as_json))


@app.command()
def simulator(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    latency: Annotated[float, typer.Option(min=0, help="Seconds before every answer.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed gives other answers.")] = 0,
    as_json: Json = False,
) -> None:
    """Play OpenAI and Anthropic over HTTP, with faults on order and a bill of every request."""
    options = {"--host": host, "--port": port, "--latency": latency, "--seed": seed}
    words = [word for name, value in options.items() for word in (name, str(value))]
    flags = ["--json"] if as_json else []
    os.execv(sys.executable, [sys.executable, "-m", "simulator", *words, *flags])


@app.command()
def flower(
    address: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.", envvar="FLOWER_PORT")] = 5555,
) -> None:
    """Run Flower with the columns that make sense here, behind FLOWER_BASIC_AUTH or a password of its own."""
    from cli.flower import run_flower

    run_flower(address, port)


@app.command()
def api(
    host: Annotated[str, typer.Option(help="Where to listen; other than this machine only with API_TOKENS.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    as_json: Json = False,
) -> None:
    """Serve the HTTP API until Ctrl-C."""
    from cli.api import run_api

    run_api(host, port, as_json=as_json)


@app.command("api-token")
def api_token(
    name: Annotated[str, typer.Argument(help="Whose token it is; changes are recorded under this name.")],
    role: Annotated[
        list[str] | None, typer.Option(help="submit (if none), read or admin; several may be given.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Bind the token to this user's jobs.")] = None,
    as_json: Json = False,
) -> None:
    """Make a token for the HTTP API; it is shown once, and only its hash goes into API_TOKENS."""
    from cli.api import make_api_token

    make_api_token(name, role or ["submit"], user, as_json=as_json)


def main() -> None:
    """Run the command line; an error that people can mend is one sentence and exit status 1."""
    if not {"up", "demo", "simulator", "api-token"} & set(sys.argv[1:2]):
        use_running_stack()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (sentence := refusal(error)) is None:
            raise
        print(f"paymaster: {sentence}", file=sys.stderr)
        sys.exit(1)
