"""The contenders of `benchmarks.overshoot` that people would use instead: programs of `benchmarks/peers/`."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.ground import Ground, Played, Scenario, wait_until
from benchmarks.peers.calls import MAX_TOKENS
from cli.stack import free_port

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers" / "bin" / "python"
NEEDS_PEERS = "The litellm proxy is not installed here: `make bench-peers` installs it into .venv-peers."


def has_peers() -> bool:
    """Whether the peers' own environment is there."""
    return PEERS.exists()


class Peer(Ground):
    """Processes of one program, each with its share of the calls."""

    program: ClassVar[str]
    server = ""
    # after how many calls something happens at the latest
    at_most = 30

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.round = 0

    def takes_part(self, scenario: Scenario) -> bool:
        """Whether the scenario can happen to it."""
        return True

    def before_round(self, scenario: Scenario, budget: int) -> None:
        """What must be there first."""

    def prepare(self, scenario: Scenario, processes: int) -> None:
        """What one of its calls costs."""
        self.processes = processes
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
        folder = self.home / f"round{self.round}"
        folder.mkdir()
        budget = room * self.price
        self.before_round(scenario, budget)
        billed, requests = self.billed(), self.requests()
        running = [self.begin(scenario, folder, number, count, budget) for number in range(self.processes)]
        for process in running:
            self.say_go(process)
        if scenario.event is not None:
            at = min(scenario.at, self.at_most)
            wait_until(
                "calls are under way",
                lambda: self.requests() - requests >= at or all(one.poll() is not None for one in running),
            )
            if scenario.event == "kill":
                running[0] = self.strike(running[0], lambda: self.begin(scenario, folder, 0, count, budget))
            else:
                self.empty_redis(scenario.event)
        for process in running:
            process.wait(600)
        ended = [json.loads(line) for log in folder.glob("*.log") for line in log.read_text().splitlines()]
        if len(ended) != count:
            raise SystemExit(f"{self.program}: {len(ended)} of {count} calls have ended; {folder}")
        return Played(budget, self.billed() - billed, sum(one["error"] is None for one in ended), count)

    def strike(self, victim: "subprocess.Popen[bytes]", begin: Callable[[], "subprocess.Popen[bytes]"]) -> Any:
        """Kill a process, and start it once more, to make what it has not done."""
        victim.kill()
        victim.wait()
        again = begin()
        self.say_go(again)
        return again

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
            "server": self.server,
            "key": self.key(budget, folder.name),
        }
        with (folder / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.peers.{self.program}", json.dumps(share)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def key(self, budget: int, name: str) -> str:
        """Of a server between: a key with a budget in nano-USD."""
        return f"sk-{budget}-{name}"

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
    """The litellm proxy, one process without a database, and four clients. Each round has a key with a budget of its
    own, which `benchmarks/peers/proxy_auth.py` tells it; since 1.84 it reserves what a call may cost. What is killed
    is the proxy, and clients make a call again whose connection broke."""

    program = "proxy"
    strict = False
    at_most = 5  # it lets few through, of forty at a time

    def before_round(self, scenario: Scenario, budget: int) -> None:
        """A new proxy, since one that has lost its Redis once may stay without it."""
        if self.server:
            self.end(["proxy"])
        self.start_proxy(self.router_settings(budget))

    def router_settings(self, budget: int) -> dict[str, Any]:
        """More of these, for a budget in nano-USD."""
        return {}

    def start_proxy(self, router: dict[str, Any]) -> None:
        """A proxy that answers; `router` is more of its `router_settings`."""
        address = {"host": "127.0.0.1", "port": self.redis_port}
        simulator = {"api_base": self.environment["PAYMASTER_SIMULATOR"] + "/v1", "api_key": "simulated"}
        config = {
            "model_list": [
                {"model_name": name, "litellm_params": {"model": f"openai/{name}", "max_retries": 0, **simulator}}
                for name in ("gpt-4o", "gpt-4o-mini")
            ],
            "router_settings": {
                "num_retries": 0,
                "disable_cooldowns": True,
                "fallbacks": [{"gpt-4o-mini": ["gpt-4o"]}],
                **{f"redis_{name}": value for name, value in address.items()},
                **router,
            },
            # Redis for what was spent, not for answers
            "litellm_settings": {
                "cache": True,
                "cache_params": {"type": "redis", "supported_call_types": [], **address},
            },
            "general_settings": {
                "custom_auth": "proxy_auth.user_api_key_auth",
                "custom_auth_run_common_checks": True,
                "fail_closed_budget_enforcement": self.strict,
            },
        }
        (self.home / "config.yaml").write_text(json.dumps(config))
        shutil.copy(ROOT / "benchmarks" / "peers" / "proxy_auth.py", self.home)
        self.server = f"http://127.0.0.1:{free_port()}"
        self.run_proxy()

    def run_proxy(self) -> None:
        """Start its process, on the port that it has had before."""
        self.start(
            "proxy",
            # it would take our database for one of its own
            "env", "-u", "DATABASE_URL", "-u", "REDIS_URL", str(PEERS.with_name("litellm")),
            "--config", str(self.home / "config.yaml"), "--host", "127.0.0.1", "--port", self.server.rpartition(":")[2],
            environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(24)}"},
        )  # fmt: skip
        wait_until("the proxy answers", self.answers, every_s=0.5)

    def answers(self) -> bool:
        """Whether it is up."""
        self.check()
        try:
            urllib.request.urlopen(f"{self.server}/health/liveliness", timeout=5).read()
        except OSError:
            return False
        return True

    def strike(self, victim: "subprocess.Popen[bytes]", begin: Callable[[], "subprocess.Popen[bytes]"]) -> Any:
        os.kill(self.pid("proxy"), signal.SIGKILL)
        self.run_proxy()
        return victim


class ProxyStrict(Proxy):
    """The same, with `fail_closed_budget_enforcement`: by default a call that does not fit any more is let through,
    with a reservation that is cut to what is left."""

    strict = True


class ProxyProvider(Proxy):
    """The same, with a budget of the provider instead of the key's."""

    def router_settings(self, budget: int) -> dict[str, Any]:
        return {"provider_budget_config": {"openai": {"budget_limit": budget / 1e9, "time_period": "1d"}}}

    def key(self, budget: int, name: str) -> str:
        return super().key(1000 * budget, name)
