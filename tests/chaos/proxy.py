"""A TCP proxy in front of a server that may swallow every reply: the server has done what it was asked, and nobody
hears of it."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Passes bytes both ways between a port of its own and another of loopback."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.swallowed = 0
        self._swallow = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def swallowing_replies(self) -> Iterator[None]:
        """Requests pass, replies do not. Afterwards the connections that missed some are closed."""
        self._swallow.set()
        try:
            yield
        finally:
            self._break_all()
            self._swallow.clear()

    def close(self) -> None:
        self._listener.close()
        self._break_all()

    def _break_all(self) -> None:
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.to_port), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._sockets |= {client, server}
            for source, target, replies in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, target, replies), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if replies and self._swallow.is_set():
                    self.swallowed += 1
                else:
                    target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()
