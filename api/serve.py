"""`paymaster api`: the application on uvicorn, one process."""

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from api.access import check_address
from api.app import create_app
from api.protocol import Protocol
from api.settings import ApiSettings
from db.environment import read_settings
from worker.logs import setup

BACKLOG = 2048
SHUTDOWN_S = 5


def run(host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. Port 0 takes a free one; `ready` gets the URL. Raises `SettingsError`, or
    `OSError` if the address cannot be had."""
    check_address(host, read_settings(ApiSettings))
    setup()
    server = server_of(create_app())
    with listen(host, port) as listening:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket there. It names its protocol, or asyncio would leave TCP_NODELAY off, and every answer on a
    connection that is kept would wait 40 ms for the client's acknowledgement of its first packet."""
    listening = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def server_of(app: ASGIApp) -> uvicorn.Server:
    """uvicorn as we run it: paths may hold the ids of users, so nothing is logged of a request."""
    return uvicorn.Server(
        uvicorn.Config(
            app, access_log=False, server_header=False, log_config=None, log_level="warning", ws="none",
            timeout_graceful_shutdown=SHUTDOWN_S, http=Protocol,
        )
    )  # fmt: skip
