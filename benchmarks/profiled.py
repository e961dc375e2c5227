"""Where the CPU of a job goes: sums what py-spy has seen of a worker by what its code is for.

    py-spy record --gil --rate 500 --format raw --duration 30 --pid WORKER --output seen.txt   # while jobs run
    python -m benchmarks.profiled seen.txt --cpu-ms 6.2

A sample belongs to the first of AREAS that its innermost frame, or else the frame around it, and so on, is in. Prints a
Markdown table: shares, and with `--cpu-ms` (CPU per job, by benchmarks.overhead) milliseconds. py-spy is not ours."""

import argparse
from collections import Counter
from pathlib import Path

# what is for what: the first of them that is in a frame of py-spy's, such as `ping (kombu/transport/redis.py:12)`
AREAS = {
    "SQL: driver and SQLAlchemy": ("sqlalchemy/", "sqlite3", "psycopg"),
    "Celery and its broker": ("kombu/", "celery/", "vine/", "billiard/"),
    "Redis client": ("redis/",),
    "HTTP to the provider": ("aiohttp/", "httpx/", "httpcore/", "yarl/", "multidict/", "ssl.py"),
    "litellm": ("litellm/", "openai/", "tiktoken/", "pydantic/"),
    "ours: budget": ("budget/",),
    "ours: SQL": ("db/",),
    "ours: selection": ("selection/",),
    "ours: tasks": ("tasks/",),
    "ours: worker": ("worker/",),
    "event loop and threads": ("asyncio/", "concurrent/", "threading.py", "selectors.py", "queue.py"),
}
ELSE = "the rest of Python"


def area_of(stack: str) -> str:
    """The area of a sample: `outer;…;inner`."""
    for frame in reversed(stack.split(";")):
        for area, parts in AREAS.items():
            if any(f"({part}" in frame or f"/{part}" in frame for part in parts):
                return area
    return ELSE


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seen", type=Path, help="what `py-spy record --format raw` wrote")
    parser.add_argument("--cpu-ms", type=float, help="CPU of one job")
    options = parser.parse_args()
    found: Counter[str] = Counter()
    for line in options.seen.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        if stack:  # else a thread without a frame of Python: nobody's
            found[area_of(stack)] += int(samples)
    print("| area | share | ms a job |\n| --- | ---: | ---: |")
    for area, samples in found.most_common():
        share = samples / found.total()
        print(f"| {area} | {share:.0%} | {f'{share * options.cpu_ms:.2f}' if options.cpu_ms else '–'} |")


if __name__ == "__main__":
    main()
