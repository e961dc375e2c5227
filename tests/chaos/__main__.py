"""`python -m tests.chaos`: every scenario in full, each as one JSON object a line. See `--help`."""

import argparse
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.chaos.runner import run
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.stage import Stage


def main() -> int:
    """Play what is asked for; 1 if something does not hold, or a control was not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break things, and count.")
    parser.add_argument("scenarios", nargs="*", help="starts of their names; all, if none is given")
    parser.add_argument("--short", action="store_true", help="the short forms, as in the tests")
    parser.add_argument("--controls", action="store_true", help="play each short form with its mutant, which must fail")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--home", type=Path, help="where logs and databases are kept; a temporary folder, if not given")
    wanted = parser.parse_args()
    chosen = [s for s in SCENARIOS.values() if not wanted.scenarios or s.name.startswith(tuple(wanted.scenarios))]
    form = "short" if wanted.short or wanted.controls else "full"
    good = True
    with tempfile.TemporaryDirectory(prefix="paymaster-chaos-") as folder:
        print(f"seed {wanted.seed}, logs in {wanted.home or folder}", file=sys.stderr)
        with Stage(wanted.home or Path(folder)) as stage:
            for scenario in chosen:
                mutant = scenario.control if wanted.controls else None
                report = run(stage, scenario, wanted.seed, form=form, mutant=mutant)
                good &= bool(report.violations) == bool(mutant)
                print(json.dumps({"control": mutant, **asdict(report)} if mutant else asdict(report)), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
