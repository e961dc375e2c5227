"""`make bench`: run the benches one after another, keep their figures in benchmarks/results.json, write
docs/benchmarks.md. With `--short`, only whether each works; nothing is kept then."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from benchmarks import page
from benchmarks.bench import Bench
from benchmarks.table import BENCHES

VERSIONS = ("celery", "kombu", "litellm", "sqlalchemy", "redis")


def run(bench: Bench, *, short: bool) -> dict[str, Any]:
    """Its figures, and what was run where; `CalledProcessError` if it fails."""
    options = ["--short"] if short else [*bench.options]
    # of before: the bench may take long enough for both to change
    load, of, started = os.getloadavg()[0], commit(), time.monotonic()
    command = ["-m", f"benchmarks.{bench.name}", *options]
    done = subprocess.run([sys.executable, *command], cwd=page.ROOT, stdout=subprocess.PIPE, check=True)
    return {
        "command": " ".join(["python", *command]),
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": of,
        "seconds": round(time.monotonic() - started),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "load": round(load, 1),
        "versions": {name: version(name) for name in VERSIONS},
        "figures": json.loads(done.stdout),
    }


def commit() -> str:
    """The commit of this code, and whether it was changed since: by more than what this writes itself."""
    head = git("rev-parse", "--short=10", "HEAD")
    if head.returncode:
        return "unknown"
    changed = git("diff", "--quiet", "HEAD", "--", ".", ":!docs", ":!benchmarks/results.json").returncode
    return head.stdout.strip() + (" and changes" if changed else "")


def git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """What git says of the folder of this code."""
    return subprocess.run(["git", *arguments], cwd=page.ROOT, capture_output=True, text=True, check=False)


def main() -> None:
    """Run those that are named, or all; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    named = {bench.name: bench for bench in BENCHES if find_spec(f"benchmarks.{bench.name}")}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(named)}")
    parser.add_argument("--short", action="store_true", help="the form that takes seconds")
    parser.add_argument("--page", action="store_true", help="run nothing, only write the page anew")
    options = parser.parse_args()
    if unknown := set(options.names) - set(named):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(named)}")
    chosen = [named[name] for name in options.names] or [one for one in named.values() if not one.by_name_only]
    failed = []
    for bench in () if options.page else chosen:
        print(f"{bench.name} …", file=sys.stderr, flush=True)
        try:
            entry = run(bench, short=options.short)
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"{bench.name} failed: {error}", file=sys.stderr)
            failed.append(bench.name)
            continue
        print(f"{bench.name}: {entry['seconds']} s", file=sys.stderr)
        if not options.short:
            results = json.loads(page.RESULTS.read_text()) if page.RESULTS.exists() else {}
            page.RESULTS.write_text(json.dumps({**results, bench.name: entry}, indent=1, sort_keys=True) + "\n")
    if not options.short:
        page.write()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
