"""`paymaster simulator` and `python -m simulator`: serve until SIGTERM or Ctrl-C, and say where when ready."""

from __future__ import annotations

import argparse
import json

from simulator.server import run


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="paymaster simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free port")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other answers")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of text")
    options = parser.parse_args()

    def ready(url: str) -> None:
        exports = {"OPENAI_API_BASE": f"{url}/v1", "ANTHROPIC_API_BASE": url}
        if options.json:
            print(json.dumps({"url": url, "environment": exports}), flush=True)
            return
        print(f"The simulator listens at {url}; the bill is at {url}/bill")
        print("\n".join(f"  export {name}={value}" for name, value in exports.items()), flush=True)

    try:
        run(options.host, options.port, ready=ready, latency_s=options.latency, seed=options.seed)
    except OSError as error:
        parser.exit(1, f"paymaster: cannot listen on {options.host} port {options.port}: {error.strerror}\n")


if __name__ == "__main__":
    main()
