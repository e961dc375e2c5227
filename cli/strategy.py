"""`paymaster strategy`: the current one, and another one from now on."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

app = typer.Typer(invoke_without_command=True)


@app.callback()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show the strategy of jobs that name none, or set it."""
    if context.invoked_subcommand is not None:
        if as_json:
            raise typer.BadParameter(f"give it after {context.invoked_subcommand}", param_hint="--json")
        return
    from worker.strategy import strategy_in_force

    _print(strategy_in_force(), as_json)


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="A strategy, or 'default' for the environment's.")], as_json: Json = False
) -> None:
    """Let every worker use another strategy within a second, without a restart."""
    from cli.budget import whoami
    from worker.strategy import set_strategy

    _print(set_strategy(name, whoami()), as_json)


def _print(strategy: str, as_json: bool) -> None:
    from cli import output

    if as_json:
        output.print_json({"strategy": strategy})
    else:
        output.console.print(f"The current strategy is {strategy}.", highlight=False)
