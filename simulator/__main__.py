"""`python -m simulator --port 0`: serve until SIGTERM, and print one JSON line with the URL when ready."""

from __future__ import annotations

import argparse
import json

from simulator.server import run


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other answers")
    options = parser.parse_args()

    def ready(url: str) -> None:
        print(json.dumps({"url": url}), flush=True)

    run(options.host, options.port, ready=ready, latency_s=options.latency, seed=options.seed)


if __name__ == "__main__":
    main()
