"""Certificates and a small TLS server in front of a plain one, on loopback."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)


def authority(folder: Path, name: str = "ca") -> Path:
    """A new certificate authority; its certificate."""
    openssl(
        folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.pem",
    )  # fmt: skip
    return folder / f"{name}.pem"


def certificate(folder: Path, name: str) -> None:
    """`name.pem` and `name.key` for 127.0.0.1, signed by the authority `ca` of that folder."""
    openssl(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
        "-out", f"{name}.csr",
    )  # fmt: skip
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-extfile", "san", "-out", f"{name}.pem",
    )  # fmt: skip


@contextmanager
def tls_before(port: int, folder: Path) -> Iterator[int]:
    """A port that speaks TLS, wants a certificate of its clients, and passes on to `port`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def serve() -> None:
        with suppress(OSError):
            while True:
                taken, _ = listener.accept()
                threading.Thread(target=_pass_on, args=(context, taken, port), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def _pass_on(context: ssl.SSLContext, taken: socket.socket, port: int) -> None:
    """One connection. A TLS socket must not be read and written by two threads at once without care, so one thread
    turns with short waits."""
    with suppress(OSError), taken:
        taken.settimeout(10)
        with context.wrap_socket(taken, server_side=True) as outer, socket.create_connection(("127.0.0.1", port)) as to:
            outer.settimeout(0.002)
            to.settimeout(0.002)
            while True:
                for source, target in ((outer, to), (to, outer)):
                    try:
                        data = source.recv(1 << 16)
                    except (TimeoutError, ssl.SSLWantReadError):
                        continue
                    if not data:
                        return
                    target.settimeout(10)
                    target.sendall(data)
                    target.settimeout(0.002)
