"""`python -m tests.fuzz [SECONDS]`: round after round with a seed of its own, until the time is up or one fails.

Each round prints its seed and its line of pytest; `pytest tests/fuzz --hypothesis-seed=SEED` plays it again, with
FUZZ_EXAMPLES as printed."""

import os
import secrets
import subprocess
import sys
import time

EXAMPLES = "2000"


def main() -> None:
    """Run; exit status 1 after a round that failed."""
    until = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 600)
    rounds = 0
    while rounds == 0 or time.monotonic() < until:
        seed = secrets.randbelow(2**32)
        print(f"round {rounds}: FUZZ_EXAMPLES={EXAMPLES} --hypothesis-seed={seed}", flush=True)
        status = subprocess.run(
            [sys.executable, "-m", "pytest", "tests/fuzz", f"--hypothesis-seed={seed}"],
            env={**os.environ, "FUZZ_EXAMPLES": EXAMPLES},
            check=False,
        ).returncode
        if status:
            sys.exit(1)
        rounds += 1
    print(f"{rounds} rounds, nothing found")


if __name__ == "__main__":
    main()
