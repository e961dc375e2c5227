"""What choosing a model costs: counting a description's words and selecting, as a worker does it for every job.

Prints JSON: microseconds of CPU, p50 and p99, for descriptions of several sizes, with and without the split test and
choosing by the record. Nothing else of a job is in it: no payload check, no SQL. Nothing here waits, so on a quiet
machine the clock shows the same; on a busy one its p99 would be that of the neighbours."""

import argparse
import json
import time
from collections.abc import Callable

from selection.adaptive import Record, Statistics
from selection.registry import load_registry
from selection.rules import JobFacts, count_words
from selection.select import select
from selection.settings import SelectionSettings
from selection.split import DEFAULT

RUNS = 20_000
SENTENCE = "We look for a baker who can make bread, rolls and cakes, and who rises early in the morning. "
DESCRIPTIONS = {
    "10 words": " ".join(SENTENCE.split()[:10]),
    "1,000 words": " ".join((SENTENCE * 60).split()[:1000]),
    "200 KB": (SENTENCE * 2200)[:200_000],
    "200 KB of spaces": " " * 200_000,
}


def microseconds(run: Callable[[int], object], runs: int) -> dict[str, float]:
    """p50 and p99 of single runs."""
    times = []
    for number in range(runs):
        started = time.thread_time_ns()
        run(number)
        times.append(time.thread_time_ns() - started)
    times.sort()
    return {"p50_us": times[runs // 2] / 1000, "p99_us": times[runs * 99 // 100] / 1000}


def counter(description: str) -> Callable[[int], object]:
    """Counting its words."""
    return lambda _: count_words(description)


def chooser(
    description: str, settings: SelectionSettings, statistics: Statistics | None = None
) -> Callable[[int], object]:
    """Choosing for the job of that number."""

    def choose(number: int) -> object:
        facts = JobFacts(
            kind="parse",
            words=count_words(description),
            prompt_bytes=6 * len(description) + 5000,
            answer_tokens=1000,
            user_id=str(number),
        )
        return select(facts, settings, statistics=statistics, job_id=str(number), count=lambda _: 50_000)

    return choose


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few runs of each: whether it works")
    runs = 100 if parser.parse_args().short else RUNS
    plain = SelectionSettings(model_split_test=(), model_selection_adaptive=False)
    split = plain.model_copy(update={"model_split_test": DEFAULT})
    record = Record(calls=50, cost=300_000_000, succeeded=50, tokens=80_000, p95_ms=900, quality=0.9)
    statistics = {(model, "parse"): record for model in load_registry().models}
    report: dict[str, object] = {}
    for name, description in DESCRIPTIONS.items():
        report[name] = {
            "count_words": microseconds(counter(description), runs),
            "choose": microseconds(chooser(description, plain), runs),
            "choose, split test": microseconds(chooser(description, split), runs),
            "choose, adaptive": microseconds(chooser(description, plain, statistics), runs),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
