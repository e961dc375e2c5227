"""The contenders of `benchmarks.overshoot` that people would use instead: programs of `benchmarks/peers/`."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import ClassVar

from benchmarks.ground import Ground, Played, Scenario, wait_until
from benchmarks.peers.calls import MAX_TOKENS

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers" / "bin" / "python"
NEEDS_PEERS = "The litellm proxy is not installed here: `make bench-peers` installs it into .venv-peers."


def has_peers() -> bool:
    """Whether the peers' own environment is there."""
    return PEERS.exists()


class Peer(Ground):
    """Processes of one program, each with its share of the calls."""

    program: ClassVar[str]

    def takes_part(self, scenario: Scenario) -> bool:
        """Whether the scenario can happen to it."""
        return True

    def prepare(self, scenario: Scenario, processes: int) -> None:
        """What one of its calls costs."""
        self.processes, self.round = processes, 0
        self.faults([])
        before = self.billed()
        message = {"role": "user", "content": scenario.posting}
        body = {"model": scenario.models[0], "messages": [message], "max_tokens": MAX_TOKENS}
        url = self.environment["PAYMASTER_SIMULATOR"] + "/v1/chat/completions"
        headers = {"Content-Type": "application/json", "Authorization": "Bearer simulated"}
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=60).read()
        self.price = self.billed() - before
        self.faults(scenario.faults)

    def play(self, scenario: Scenario, count: int, room: int) -> Played:
        """One round, with nothing left of those before."""
        self.redis().flushall()
        self.round += 1
        folder = self.home / f"round-{scenario.what[:3]}-{scenario.event}-{scenario.in_flight}-{self.round}"
        folder.mkdir()
        budget = room * self.price
        billed, requests = self.billed(), self.requests()
        running = [self.begin(scenario, folder, number, count, budget) for number in range(self.processes)]
        for process in running:
            self.say_go(process)
        if scenario.event is not None:
            wait_until("calls are under way", lambda: self.requests() - requests >= scenario.at)
            if scenario.event == "kill":
                running[0].kill()
                running[0].wait()
                running[0] = self.begin(scenario, folder, 0, count, budget)
                self.say_go(running[0])
            else:
                self.empty_redis(scenario.event)
        for process in running:
            process.wait(600)
        ended = [json.loads(line) for log in folder.glob("*.log") for line in log.read_text().splitlines()]
        if len(ended) != count:
            raise SystemExit(f"{self.program}: {len(ended)} of {count} calls have ended; {folder}")
        return Played(budget, self.billed() - billed, sum(one["error"] is None for one in ended), count)

    def begin(
        self, scenario: Scenario, folder: Path, number: int, count: int, budget: int
    ) -> "subprocess.Popen[bytes]":
        """One of the processes, with every `processes`th call."""
        model, fallback = scenario.models
        share = {
            "numbers": [*range(number, count, self.processes)],
            "in_flight": scenario.in_flight,
            "log": str(folder / f"{number}.log"),
            "simulator": self.environment["PAYMASTER_SIMULATOR"],
            "redis_port": self.redis_port,
            "budget_usd": budget / 1e9,
            "model": model,
            "fallback": fallback,
            "prompt": scenario.posting,
        }
        with (folder / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.peers.{self.program}", json.dumps(share)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def say_go(self, process: "subprocess.Popen[bytes]") -> None:
        """Let it begin as soon as it is ready, which litellm's import delays."""
        assert process.stdout is not None
        assert process.stdin is not None
        while (line := process.stdout.readline()) not in (b"ready\n", b""):
            continue
        if not line:
            raise SystemExit(f"{self.program} ended with status {process.wait()}")
        process.stdin.write(b"go\n")
        process.stdin.flush()


class Router(Peer):
    """`litellm.Router` with `provider_budget_config`."""

    program = "router"


class BudgetManager(Peer):
    """`litellm.BudgetManager`."""

    program = "budget_manager"

    def takes_part(self, scenario: Scenario) -> bool:
        return scenario.event in (None, "kill")  # it knows no Redis


class Proxy(Peer):
    """The litellm proxy, budget of a key."""

    program = "proxy"


class ProxyProvider(Proxy):
    """The same with a budget of the provider."""
