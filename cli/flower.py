"""`paymaster flower`: Flower with what makes it useful here, and never without a password."""

import os
import secrets
import sys
from pathlib import Path

USER = "paymaster"
# a task is a job: its id first, then where it stands; arguments and results are never shown
COLUMNS = "name,uuid,state,runtime,worker,received,exception"
# an hour at 30 jobs a second, some 200 MB
MOST_TASKS = 100_000
PASSWORD_FILE = "flower-password"  # noqa: S105  # its name


def flower_auth(home: Path) -> str:
    """`user:password` for Flower: FLOWER_BASIC_AUTH, or a password of our own, made once and kept in `home`."""
    if given := os.environ.get("FLOWER_BASIC_AUTH"):
        return given
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = home / PASSWORD_FILE
    if not file.exists():
        with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as new:
            new.write(secrets.token_urlsafe(18))
    return f"{USER}:{file.read_text().strip()}"


def run_flower(address: str, port: int) -> None:
    """Run Flower until a signal. Its password goes by the environment: command lines can be seen by all."""
    home = Path(os.environ.get("PAYMASTER_HOME", ".paymaster"))
    os.environ["FLOWER_BASIC_AUTH"] = flower_auth(home)
    # it has metrics of its own, which are not the workers'
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    from celery.__main__ import main

    from worker.logs import setup

    setup()
    sys.argv = [
        "celery", "--quiet", "-A", "worker.app", "flower",
        f"--address={address}", f"--port={port}", f"--tasks_columns={COLUMNS}", f"--max_tasks={MOST_TASKS}",
        "--purge_offline_workers=3600", "--logging=none",
    ]  # fmt: skip
    main()
