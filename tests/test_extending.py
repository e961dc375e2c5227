"""The guide to extending, followed to the letter in a copy of the tree: its kind of job runs from end to end."""

import json
import os
import re
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.queues import QUEUES

ROOT = Path(__file__).parents[1]
STEP = re.compile(
    r"^   `(?P<file>[\w./-]+)`\n\n   ```(?P<how>python|diff)\n(?P<text>.*?)\n   ```$", re.DOTALL | re.MULTILINE
)
GUIDE = (ROOT / "docs/extending.md").read_text().partition("## A kind of job")[2]
STEPS = [(found["file"], found["how"], textwrap.dedent(found["text"])) for found in STEP.finditer(GUIDE)]
POSTING = "We look for a night baker in Porto. You knead, shape and bake. We pay fairly."


def side(hunk: str, sign: str) -> str:
    return "\n".join(line[1:] for line in hunk.split("\n") if line[:1] in ("", " ", sign))


def follow(folder: Path) -> None:
    for file, how, text in STEPS:
        path = folder / file
        if how == "python":
            assert not path.exists()
            path.write_text(text + "\n")
            continue
        made = path.read_text()
        for hunk in text.split("\n@@\n"):
            old, new = side(hunk, "-"), side(hunk, "+")
            assert made.count(old) == 1, (file, old)
            made = made.replace(old, new)
        path.write_text(made)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    follow(folder)
    return folder


def run(copy: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=copy, env=surroundings(copy), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def surroundings(copy: Path) -> dict[str, str]:
    """Nothing of ours but the interpreter: neither this tree nor the stack of other tests."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": str(copy)}


# as `paymaster up`, without what this kind of job does not need
STACK = """
import json, signal, sys
from functools import partial
from pathlib import Path
from cli.stack import Stack

class Small(Stack):
    def _start_celery(self):
        self.start_worker("summarize")
        self.start("api", sys.executable, "-m", "cli", "api", "--port", "0", "--json")
        self.environment["PAYMASTER_API"] = self._wait("api", partial(self._url_of, "api"))

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with Small(Path(".paymaster"), simulate=True, concurrency=4) as stack:
    print(json.dumps(stack.environment), flush=True)
    signal.pause()
"""


@pytest.fixture(scope="module")
def stack(copy: Path) -> Iterator[dict[str, str]]:
    """A stack in the copy; what programs need to use it."""
    with subprocess.Popen(
        [sys.executable, "-c", STACK], cwd=copy, env=surroundings(copy), stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        try:
            yield json.loads(up.stdout.readline())
        finally:
            up.terminate()
            up.wait(60)


def test_the_guide_touches_nothing_but_tasks_and_data() -> None:
    files = [file for file, _, _ in STEPS]
    assert len(files) == 5
    assert all(file.startswith("tasks/") or file.endswith((".toml", ".yml")) for file in files)


def test_what_the_guide_makes_is_neat(copy: Path) -> None:
    run(copy, "ruff", "check", "tasks")
    run(copy, "ruff", "format", "--check", "tasks")


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=90) as answer:
        return json.loads(answer.read())


@pytest.mark.timeout(300)
def test_the_kind_of_the_guide_runs_over_http_and_on_the_command_line(copy: Path, stack: dict[str, str]) -> None:
    api = stack["PAYMASTER_API"]
    described = ask(f"{api}/api/v1/openapi.json")
    body = described["paths"]["/api/v1/jobs/summarize/"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/SummarizePayload"}
    accepted = ask(f"{api}/api/v1/jobs/summarize/", body["example"])
    job = ask(f"{api}{accepted['url']}?wait=60")
    assert (job["state"], job["queue"], job["kind"]) == ("succeeded", "summarize", "summarize")
    assert job["result"]["summary"] and job["cost_usd"] > 0
    assert job["processing_metadata"]["model_used"] == "gpt-4o-mini"
    assert job["processing_metadata"]["selection_reason"] == "balanced_strategy_general_complexity"
    assert [one["id"] for one in ask(f"{api}/api/v1/jobs/?kind=summarize")["jobs"]] == [job["id"]]

    (copy / "posting.txt").write_text(POSTING)
    (told,) = json.loads(run(copy, "cli", "submit", "summarize", "posting.txt", "--wait", "--json"))
    assert told["state"] == "succeeded" and told["result"]["summary"]


def test_sent_by_name_it_goes_to_its_queue(copy: Path) -> None:
    program = "import celeryconfig; print(celeryconfig.task_routes['tasks.summarize'], len(celeryconfig.task_queues))"
    told = subprocess.run([sys.executable, "-c", program], cwd=copy, env=surroundings(copy), capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert told.stdout.strip() == f"{{'queue': 'summarize'}} {len(QUEUES) + 1}"
