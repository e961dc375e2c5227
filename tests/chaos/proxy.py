"""A TCP proxy in front of a server that may swallow every reply: the server has done what it was asked, and nobody
hears of it. Or hold everything back, as a network does that loses packets: nobody hears of that either, and what was
sent arrives when it is back."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Passes bytes both ways between a port of its own, at `address`, and another of loopback."""

    def __init__(self, to_port: int, address: str = "127.0.0.1") -> None:
        self.to_port = to_port
        self.swallowed = 0
        self._lock = threading.Lock()
        self._swallowing = False
        self._passing = threading.Event()
        self._passing.set()
        # a connection that missed a reply can only be closed: TCP has no gaps
        self._deaf: set[socket.socket] = set()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server((address, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def swallowing_replies(self) -> Iterator[None]:
        """Requests pass, replies do not. Afterwards the connections that missed some are closed."""
        with self._lock:
            self._swallowing = True
        try:
            yield
        finally:
            with self._lock:
                self._swallowing = False
                _shut(self._deaf)

    def cut(self) -> None:
        """Hold everything back, and answer no new connection; nobody is told."""
        self._passing.clear()

    def mend(self) -> None:
        """Let everything pass that was held back, and what comes."""
        self._passing.set()

    def close(self) -> None:
        self._passing.set()
        self._listener.close()
        _shut(self._sockets)

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
            with self._lock:
                self._sockets |= {client, server}
            for source, target, replies in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, target, replies), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._passing.wait()
                with self._lock:
                    missed = replies and (self._swallowing or source in self._deaf)
                    if missed:
                        self.swallowed += 1
                        self._deaf.add(source)
                if not missed:
                    target.sendall(data)
        self._passing.wait()
        _shut({source, target})
        with self._lock:
            self._sockets.discard(source)
            self._deaf.discard(source)
        source.close()


def _shut(sockets: set[socket.socket]) -> None:
    """Close them for both sides; whoever reads from one notices and does the rest."""
    for one in list(sockets):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
