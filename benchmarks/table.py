"""Which benches there are, what of each is shown in docs/benchmarks.md, and what was aimed at. Data only."""

from benchmarks.bench import Aim, Bench, Picture, Table

PROGRAMS = ("ours", "plain", "plain-without-events", "router")
OVERHEAD = (
    ("worker CPU, ms", "worker_cpu_ms"),
    ("submitter's CPU, ms", "submit_cpu_ms"),
    ("Redis' CPU, ms", "redis_cpu_ms"),
    ("jobs/s", "jobs_per_second"),
    ("one job alone, ms", "alone_ms"),
)
IN_FLIGHT = (
    ("most in flight", "most_in_flight"),
    ("median", "median_in_flight"),
    ("jobs/s", "jobs_per_second"),
    ("worker CPU, ms a job", "worker_cpu_ms"),
    ("call p50, ms", "call_p50_ms"),
    ("call / provider's time", "to_provider"),
    ("MB idle", "idle_mb"),
    ("MB at most", "most_mb"),
    ("MB per call", "mb_per_call"),
    ("of these, for the call", "more_mb_per_call"),
)
CONTENDERS = (
    ("ours", "ours"),
    ("router", "router"),
    ("budget_manager", "budget_manager"),
    ("proxy, key budgets", "proxy_key_budget"),
    ("proxy, key budgets, strict", "proxy_key_budget_strict"),
    ("proxy, provider budgets", "proxy_provider_budget"),
)
OVERSHOOT = {
    "at_once": "400 at once",
    "forty": "40 in flight at a time",
    "killed": "a process is killed -9",
    "flushed": "Redis is flushed",
    "restarted": "Redis is killed, and comes back empty",
    "fallback": "the first model fails, the second is dearer",
}
GROWTH = tuple((database, users) for database in ("sqlite", "postgresql") for users in ("1 user", "10000 users"))
BENCHES = (
    Bench(
        "overhead",
        "Overhead per job",
        "Parse jobs, from submit to result, on one worker process that takes 100 at once: ours with all its "
        "guarantees, on its own pool; `plain`, a Celery task on the threads pool that calls `litellm.completion` and "
        "inserts one row; the same without the events that Flower shows; and `router`, a Celery task on the same pool "
        "that calls through `litellm.Router` with its Redis provider budgets and inserts one row (benchmarks/peers/). "
        "Same requests, simulator, Redis server; an SQLite file each. In turn; medians over the rounds, and ratios "
        "within a round.",
        options=("--rounds", "5", "--jobs", "300"),
        tables=(
            *(
                Table(OVERHEAD, tuple((name, f"{ms}/{name}") for name in PROGRAMS), f"providers take {ms}")
                for ms in ("0 ms", "500 ms")
            ),
            Table(
                tuple((name, name) for name in PROGRAMS[1:]),
                tuple(
                    (f"{what}, {latency}", f"{latency}/{key}")
                    for latency in ("0 ms", "500 ms")
                    for what, key in (("worker", "worker_cpu_ratio"), ("with submit and Redis", "all_cpu_ratio"))
                ),
                "CPU of ours to that of",
            ),
        ),
        pictures=(
            Picture(
                "Worker CPU per job in ms, providers that take 500 ms",
                tuple((name, f"500 ms/{name}/worker_cpu_ms") for name in PROGRAMS),
            ),
        ),
        aims=tuple(
            Aim(f"worker CPU, ours to plain, {ms}", f"{ms}/worker_cpu_ratio/plain", 0.5) for ms in ("0 ms", "500 ms")
        ),
        said="Ours keeps jobs, attempts and results in SQL, reserves and settles money, and holds a lease, so it does "
        "more for each job: several commits, shared with other jobs, instead of one, and two scripts in Redis. Its "
        "submit writes the job's row and is dearer than a bare message: there, and in the time of one job alone, plain "
        "Celery is better. Beat and the maintenance it orders are in neither. Where the milliseconds go is in "
        "[performance.md](performance.md).",
    ),
    Bench(
        "inflight",
        "In flight",
        "As many parse jobs as fit on one worker, ours with `-c 500`, the plain task on prefork with 20 children. "
        "All jobs are queued before the first is taken; calls are counted at the simulator; memory is PSS, which "
        "counts once what processes share.",
        tables=tuple(
            Table(IN_FLIGHT, (("ours", f"{ms}/ours"), ("prefork", f"{ms}/prefork")), f"providers take {ms}")
            for ms in ("500 ms", "5000 ms")
        ),
        pictures=(
            Picture(
                "Megabytes per call in flight, providers that take 5 s",
                (("ours", "5000 ms/ours/mb_per_call"), ("prefork", "5000 ms/prefork/mb_per_call")),
            ),
        ),
        aims=(
            Aim("calls in flight, 5 s", "5000 ms/ours/most_in_flight", 500, at_least=True),
            Aim("MB per call in flight, 5 s", "5000 ms/ours/mb_per_call", 1),
            Aim("call to provider's time, 5 s", "5000 ms/ours/to_provider", 1.15),
            Aim("calls in flight, 500 ms", "500 ms/ours/most_in_flight", 500, at_least=True),
            Aim("call to provider's time, 500 ms", "500 ms/ours/to_provider", 1.15),
        ),
        said="One process has one interpreter: it holds no more calls than the jobs a second that its CPU can do, "
        "times the provider's time; memory and connections would do for more. 500 at 500 ms would be 1,000 jobs a "
        "second, which Celery does not reach with a task that does nothing. MB per call is the whole process, divided.",
    ),
    Bench(
        "overshoot",
        "Overshoot",
        "A budget with room for 100 calls, 400 sent at once over four processes: what the simulated provider billed "
        "beyond the budget, as a share of it, and how many calls were served. Ours are real workers; `router` is "
        "`litellm.Router` with Redis provider budgets, `budget_manager` is `litellm.BudgetManager`, and the litellm "
        "proxy runs without a database: with key budgets as they come, with `fail_closed_budget_enforcement` (strict), "
        "and with provider budgets.",
        tables=tuple(
            Table(
                (("median, %", "overshoot_median_%"), ("at most, %", "overshoot_max_%"), ("served", "served_median")),
                tuple((name, f"{key}/{scenario}") for name, key in CONTENDERS),
                what,
            )
            for scenario, what in OVERSHOOT.items()
        ),
        pictures=(
            Picture(
                "Billed beyond the budget, 400 calls at once, % of it at most",
                tuple((name, f"{key}/at_once/overshoot_max_%") for name, key in CONTENDERS),
            ),
        ),
        aims=tuple(
            Aim(f"ours, {what}, %", f"ours/{scenario}/overshoot_max_%", 0) for scenario, what in OVERSHOOT.items()
        ),
        said="A budget is a hundred times what one call costs the contender. Of the peers only the proxy's key budgets "
        "reserve. Ours holds for each call what it may cost at most, and these jobs are rejected where that does not "
        "fit any more, so fewer than 100 are served when all come at once; jobs that may wait (`on_budget: defer`) get "
        "what is left. A call whose worker was killed stays charged at its reservation.",
        in_tests=False,  # tests/test_bench_long.py has it
    ),
    Bench(
        "selection",
        "Selection",
        "Counting a description's words and choosing a model, as a worker does for every job; microseconds of CPU.",
        tables=tuple(
            Table(
                (("p50, µs", "p50_us"), ("p99, µs", "p99_us")),
                tuple(
                    (what, f"{size}/{what}")
                    for what in ("count_words", "choose", "choose, split test", "choose, adaptive")
                ),
                size,
            )
            for size in ("1,000 words", "200 KB")
        ),
        aims=(Aim("choosing with 1,000 words, p99, µs", "1,000 words/choose/p99_us", 10_000),),
    ),
    Bench(
        "ledger",
        "Ledger",
        "A reservation and a settlement in four scopes at once, beside four bare INCRBY for each of both, which know "
        "no limit, and one.",
        tables=tuple(
            Table(
                (
                    ("pairs/s", "pairs_per_s"),
                    ("p50, ms", "pair_p50_ms"),
                    ("p99, ms", "pair_p99_ms"),
                    ("in Redis, µs", "in_redis_us"),
                ),
                tuple((kind, f"pairs/{scenario}/{kind}") for kind in ("ledger", "four_incrby", "one_incrby")),
                scenario,
            )
            for scenario in ("1 connection", "32 connections, processes")
        ),
    ),
    Bench(
        "api",
        "API",
        "`POST jobs/parse/` beside the same server answering a bare 202.",
        tables=tuple(
            Table(
                (("p50, ms", "median_ms"), ("p99, ms", "p99_ms"), ("requests/s", "requests_per_second")),
                (("submit", f"{clients}/submit"), ("bare", f"{clients}/bare")),
                label,
            )
            for clients, label in (("one_client", "one client"), ("8_clients", "eight clients"))
        ),
    ),
    Bench(
        "tiers",
        "Tiers",
        "20 parse jobs on an idle system, and the same behind 2,000 embed jobs; each queue has a worker, as in "
        "`paymaster up` and docker-compose.yml. Providers take 500 ms.",
        tables=tuple(
            Table(
                (("submitted, ms", "submitted_ms"), ("half of them over, ms", "half_ms"), ("all over, ms", "all_ms")),
                (("idle", f"{name}/idle"), ("behind embed jobs", f"{name}/flooded"), ("ratio", f"{name}/ratio")),
                name,
            )
            for name in ("postgresql", "sqlite")
        ),
        aims=tuple(
            Aim(f"{name}, all parse jobs over, to idle", f"{name}/ratio/all_ms", 1.2)
            for name in ("postgresql", "sqlite")
        ),
        said="Workers, database, Redis and the simulator share this machine's CPUs. SQLite has one lock for all who "
        "write, so that submitting waits for the flood's rows.",
    ),
    Bench(
        "growth",
        "Growth",
        "CPU of a job among more and more that are stored, of one and of 10,000 users: worker, Redis and PostgreSQL. "
        "Batches of 200 parse jobs in turn, medians of five.",
        options=("--jobs", "200"),
        tables=tuple(
            Table(
                (
                    ("CPU, ms a job", "all_cpu_ms_per_job"),
                    ("worker's", "worker_cpu_ms_per_job"),
                    ("jobs/s", "jobs_per_second"),
                ),
                tuple((f"{jobs:,} jobs stored", f"{database}/{users}/{jobs}") for jobs in (1000, 10_000, 100_000)),
                f"{database}, {users}",
            )
            for database, users in GROWTH
        ),
        aims=tuple(
            Aim(f"most to fewest, {database}, {users}", f"{database}/{users}/largest_to_smallest", 1.1)
            for database, users in GROWTH
        ),
        said="Rounds differ by up to a fifth, so that growth of a few per cent would not be seen.",
        in_tests=False,  # tests/test_bench_long.py has it
    ),
    Bench(
        "soak",
        "Soak",
        "Half an hour of 20 jobs a second of all kinds on PostgreSQL: memory, connections, descriptors and keys. Flat "
        "is what changes by less than 3 % of its median, or by less than 1, over the last two thirds.",
        tables=(Table((("median", "median"), ("change per hour", "slope_per_hour"), ("flat", "flat")), (), "judged"),),
        in_tests=False,  # tests/test_bench_long.py has it
        by_name_only=True,
    ),
    Bench(
        "startup",
        "Start-up",
        "From the start of a worker process to its answer over the broker, and its CPU and memory (PSS) then, with "
        "nothing to do yet: a worker of jobs, one of maintenance alone, and a plain Celery worker with litellm.",
        tables=(
            Table(
                (("ready, s", "ready_s"), ("CPU, s", "cpu_s"), ("MB", "mb")),
                (("ours, jobs", "jobs"), ("ours, maintenance", "maintenance"), ("plain with litellm", "plain")),
            ),
            Table(
                (("s", "seconds"), ("MB (RSS)", "megabytes"), ("imports litellm", "imports_litellm")),
                (("`from tasks import …` in an application", "import_tasks"),),
            ),
        ),
    ),
    Bench(
        "enqueue",
        "Submitting",
        "`parse.delay()` beside a bare Celery message, without workers.",
        tables=(
            Table(
                (("parse.delay, ms", "delay_ms"), ("bare, ms", "bare_delay_ms"), ("ratio", "ratio")), (("", "submit"),)
            ),
        ),
        said="`parse.delay()` checks the job and writes its row, which is why no broker can lose it.",
        in_tests=False,  # tests/integration has it by other ways, and start-up runs its import
    ),
    Bench(
        "jobs",
        "A worker alone",
        "Parse jobs with 100 in flight on a provider of 500 ms: the figure to compare two versions by.",
        options=("--jobs", "1000"),
        tables=(
            Table((("worker CPU, ms a job", "worker_cpu_ms_per_job"), ("jobs/s", "jobs_per_second")), (("", "parse"),)),
        ),
        in_tests=False,  # overhead is the same and more
    ),
    Bench(
        "database",
        "Statements",
        "Each statement with 100,000 jobs of thirty days stored on PostgreSQL (docs/database.md has a million).",
        options=("postgresql", "100000"),
        tables=tuple(Table((("ms", "ms"),), (), label) for label in ("per_job", "often")),
    ),
    Bench(
        "rollup",
        "Daily rollup",
        "A day of 100,000 attempts, among as many of other days, on PostgreSQL.",
        options=("100000",),
        tables=(
            Table(
                (
                    ("round of the day, s", "round_of_the_day_s"),
                    ("nothing new, s", "round_with_nothing_new_s"),
                    ("some more settled, s", "round_after_more_settled_s"),
                    ("exact", "exact"),
                ),
                (("", ""),),
            ),
        ),
        in_tests=False,  # it wants a PostgreSQL server of its own
    ),
    Bench(
        "simulator",
        "The simulator",
        "Requests a second that the simulated providers serve on keep-alive connections: what all of the above could "
        "have at most.",
        tables=(
            Table(
                (("requests/s", "requests_per_s"), ("p50, ms", "p50_ms"), ("p99, ms", "p99_ms")),
                (
                    ("chat", "chat"),
                    ("messages", "messages"),
                    ("embeddings", "embeddings"),
                    ("chat, all different", "chat_fresh"),
                ),
            ),
        ),
    ),
)
