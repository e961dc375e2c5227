"""Hosts that can be cut off from Redis, SQL and the provider at once. All that a host's processes can reach is a proxy
for each of the three; and where network namespaces are allowed, they live in one of their own, whose packets are lost
on the wire."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.proxy import Proxy
from tests.chaos.stage import Stage, port_of

SERVERS = ("REDIS_URL", "DATABASE_URL", "OPENAI_API_BASE", "ANTHROPIC_API_BASE")
# nobody has it
NOWHERE = "02:00:00:00:00:00"


class Host:
    """Where its processes find their servers (`environment`), and the way there."""

    def __init__(self, stage: Stage, address: str = "127.0.0.1") -> None:
        self._proxies: dict[int, Proxy] = {}
        self.environment: dict[str, str] = {}
        for name in SERVERS:
            url = stage.environment[name]
            port = port_of(url)
            proxy = self._proxies.setdefault(port, Proxy(port, address))
            self.environment[name] = url.replace(f"127.0.0.1:{port}", f"{address}:{proxy.port}")

    def cut_off(self) -> None:
        """From now on nothing arrives, in either direction, and nobody is told."""
        for proxy in self._proxies.values():
            proxy.cut()

    def let_back(self) -> None:
        for proxy in self._proxies.values():
            proxy.mend()

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()


class Namespace(Host):
    """A host in a network namespace of its own, joined to this one by a wire."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.name = f"pm{os.getpid()}-{number}"
        self._wire = f"pm{os.getpid() % 100_000}-{number}"
        self._here, self._there = f"10.231.{number}.1", f"10.231.{number}.2"
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._wire, "type", "veth", "peer", "name", "wire", "netns", self.name)
            _ip("address", "add", f"{self._here}/24", "dev", self._wire)
            _ip("link", "set", self._wire, "up")
            for words in (("address", "add", f"{self._there}/24", "dev", "wire"), ("link", "set", "wire", "up"),
                          ("link", "set", "lo", "up")):  # fmt: skip
                _ip("-n", self.name, *words)
            super().__init__(stage, self._here)
        except BaseException:
            _ip("netns", "delete", self.name)
            raise
        self.environment["CHAOS_NETWORK"] = self.name

    def cut_off(self) -> None:
        """Both ends send to where nobody is: packets are lost, connections stay."""
        for where, address, wire in self._ends():
            _ip(*where, "neighbour", "replace", address, "lladdr", NOWHERE, "dev", wire, "nud", "permanent")

    def let_back(self) -> None:
        for where, address, wire in self._ends():
            _ip(*where, "neighbour", "delete", address, "dev", wire)

    def close(self) -> None:
        super().close()
        _ip("netns", "delete", self.name)

    def _ends(self) -> list[tuple[tuple[str, ...], str, str]]:
        return [((), self._there, self._wire), (("-n", self.name), self._here, "wire")]


def namespaces_are_allowed() -> bool:
    """Whether this user may make one, on this system."""
    name = f"pm{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@contextmanager
def hosts(stage: Stage, number: int, *, namespaces: bool) -> Iterator[list[Host]]:
    """So many hosts; end their processes before."""
    made: list[Host] = []
    try:
        for index in range(number):
            made.append(Namespace(stage, index + 1) if namespaces else Host(stage))  # noqa: PERF401  # close those made
        yield made
    finally:
        for host in made:
            host.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
