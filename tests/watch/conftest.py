"""Where alerts arrive: a real HTTP receiver and a real mail server, on loopback."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from db.once import once_per_environment


@dataclass
class Receiver:
    """A webhook that answers `statuses` one after another, then 200; a status of 0 hangs until the test is over."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    location: str = "http://127.0.0.1:1/elsewhere"
    seen: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    hanging: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def accepted(self) -> list[Any]:
        return [json.loads(body) for status, _, body in list(self.seen) if status == 200]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with made.lock:
                status = made.statuses.pop(0) if made.statuses else 200
                made.seen.append((status, dict(self.headers), body))
            if status == 0:
                made.hanging.set()
                made.over.wait(60)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", made.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 200

    with Server(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/services/T0/secret-token"
        # it looks for its end every half second otherwise
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.over.set()
        server.shutdown()
        thread.join(10)


Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Set variables of the environment, and forget what was read from it before."""

    def set_all(**variables: Any) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        once_per_environment.forget_all()

    return set_all


@pytest.fixture
def webhook(environment: None, receiver: Receiver, configure: Configure) -> Receiver:
    """The receiver as the configured webhook."""
    configure(ALERT_WEBHOOK_URL=receiver.url, ALERT_WEBHOOK_ALLOWED_HOSTS="127.0.0.1", ALERT_WEBHOOK_SECRET="s3cret")
    return receiver


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost and its key, for this test process only."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
