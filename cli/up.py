"""`paymaster up`: the embedded stack in the foreground."""

import os
import signal
import time
from pathlib import Path

from cli.flower import flower_auth
from cli.output import console, print_json
from cli.shared import secret_names
from cli.stack import Stack, has_provider_key


def interrupt_on_sigterm() -> None:
    """Let a plain `kill` end a command as Ctrl-C does, so that nothing is left running."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def run_up(*, as_json: bool, simulate: bool | None, concurrency: int) -> None:
    """Start the stack, say where it is, and wait for Ctrl-C."""
    interrupt_on_sigterm()
    home = Path(os.environ.get("PAYMASTER_HOME", ".paymaster"))
    simulated = not has_provider_key() if simulate is None else simulate
    with Stack(home, simulate=simulated, concurrency=concurrency, flower=True) as stack:
        shown = {name: value for name, value in stack.environment.items() if name not in secret_names()}
        url = stack.environment["FLOWER_URL"]
        user, _, password = flower_auth(stack.home).partition(":")
        if as_json:
            flower = {"url": url, "user": user, "password": password}
            print_json({"environment": shown, "logs": str(stack.home / "logs"), "flower": flower})
        else:
            providers = f"simulated at {stack.environment['PAYMASTER_SIMULATOR']}" if simulated else "real"
            page = f"{stack.environment['PAYMASTER_API']}/"
            console.print(f"[bold]Paymaster is up:[/] {page}", soft_wrap=True, highlight=False)
            console.print(f"Providers: {providers}. Logs: {stack.home / 'logs'}", soft_wrap=True, highlight=False)
            console.print(f"The HTTP API: {page}api/v1/", highlight=False)
            console.print(f"Flower: {url}  user {user}  password {password}", soft_wrap=True, highlight=False)
            console.print("Commands in this folder find it by themselves; other programs need:\n")
            for name, value in shown.items():
                console.print(f"  export {name}={value}", soft_wrap=True, highlight=False)
            console.print("\nCtrl-C stops it.")
        try:
            while True:
                stack.check()
                time.sleep(0.5)
        except KeyboardInterrupt:
            if not as_json:
                console.print("Stopping …")
