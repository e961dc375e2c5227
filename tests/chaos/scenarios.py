"""The scenarios, as data, and what breaks in each."""

import signal
import time

from db.models import JobState
from tests.chaos.proxy import Proxy
from tests.chaos.runner import Dose, Play, Scenario, wait_until
from tests.chaos.steps import STEPS

# what a job that loses its worker again and again is given up after is another test's matter
PATIENT = {"LLM_MAX_LOST_RUNS": "50", "LLM_MAX_FAILURES": "50", "DAILY_BUDGET_USD": "200"}
STORM_FAULTS = (
    {"fault": "status", "status": 429},
    {"fault": "status", "status": 500},
    {"fault": "hang"},
    {"fault": "reset"},
    {"fault": "cut"},
    {"fault": "malformed"},
)
# of each, so that together they hit 30 % of the calls
STORM_SHARE = 1 - 0.7 ** (1 / len(STORM_FAULTS))
STORM = tuple({**fault, "share": STORM_SHARE} for fault in STORM_FAULTS)


def kill_at_random(play: Play) -> None:
    play.slow()
    play.submit()
    play.stage.maintain()
    for number in range(play.dose.times):
        worker = play.stage.worker(concurrency=4)
        if number == 0:
            play.until_running(1)
        play.pause(0.5, play.dose.seconds)
        worker.kill()
        if play.stage.count(JobState.SUCCEEDED) == len(play.ids):
            play.seen["kills"] = number + 1
            break
    else:
        play.seen["kills"] = play.dose.times
    play.stage.worker(concurrency=16)


def kill_at_each_step(play: Play) -> None:
    play.faults({"fault": "latency", "seconds": 1})
    play.stage.maintain()
    died = dict.fromkeys(STEPS, 0)
    for _ in range(play.dose.times):
        for step in STEPS:
            play.submit(play.dose.jobs)
            worker = play.stage.worker(concurrency=4, kill_at=[step, play.chance.randint(1, 2)])
            died[step] += worker.wait(60) == -signal.SIGKILL
    play.seen["died at"] = died
    play.expect(set(died.values()) == {play.dose.times}, f"not killed at every step: {died}")
    play.stage.worker(concurrency=16)


def lose_messages(play: Play) -> None:
    play.submit()
    with play.stage.redis() as broker:
        taken = [broker.lpop("parse") for _ in range(len(play.ids) // 2)]
    assert all(taken)
    play.seen["messages taken"] = len(taken)
    play.stage.maintain()
    play.stage.worker()


def fail_retries(play: Play) -> None:
    play.faults({"fault": "status", "status": 500, "first": play.dose.jobs})
    play.submit()
    play.stage.maintain()
    worker = play.stage.worker(fail_retries=play.dose.times)
    refused = play.stage.log_of(worker.name)
    wait_until(lambda: refused.read_text().count("CHAOS a retry") == play.dose.times, play.dose.within_s)
    play.expect(refused.read_text().count("CHAOS a retry") == play.dose.times, "no retry was refused")
    play.seen["retries not published"] = play.dose.times


def drop_replies(play: Play) -> None:
    play.slow()
    proxy = Proxy(play.stage.redis_port)
    direct = play.stage.environment["REDIS_URL"]
    play.stage.extra["REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
    try:
        play.stage.maintain()
        play.stage.worker()
        # one that goes on getting jobs, and no answer for them from the ledger
        play.stage.extra |= {
            "CELERY_BROKER_URL": direct,
            "CELERY_RESULT_BACKEND": f"worker.results.JobBackend+{direct}",
        }
        play.stage.worker("ledger")
        play.submit(play.dose.jobs // 2)
        # until their connections are open: over a new one nothing is asked before Redis has answered
        play.until_done(0.5)
        for _ in range(play.dose.times):
            play.submit(play.dose.jobs // 2 // play.dose.times)
            play.pause(0, 0.3)
            with proxy.swallowing_replies():
                play.submit(6)
                play.pause(0.3, play.dose.seconds)
        play.seen["replies dropped"] = proxy.swallowed
        play.expect(proxy.swallowed > 0, "no reply was dropped")
        play.healed()
        # the workers and the sweeper go on through the proxy
        play.until_done()
        play.until_settled()
    finally:
        play.stage.end_all()
        proxy.close()


def outlive_visibility(play: Play) -> None:
    play.faults({"fault": "latency", "seconds": play.dose.seconds})
    play.submit()
    play.stage.maintain()
    workers = [play.stage.worker() for _ in range(2)]
    play.until_running(play.dose.jobs)
    play.until_done()
    play.seen["workers"] = len(workers)


def restart_redis_empty(play: Play) -> None:
    play.slow()
    play.stage.maintain()
    play.stage.worker()
    for _ in range(play.dose.times):
        play.submit(play.dose.jobs // play.dose.times)
        play.until_running(3)
        play.pause(0.2, 1.0)
        with play.stage.redis_killed():
            play.pause(0, 1.0)
        play.until_done(0.8)


def stop_sql(play: Play) -> None:
    play.slow(1.5, 2.5)
    play.stage.maintain()
    play.submit()
    play.stage.worker()
    play.until_calling(6)
    spooled = set()
    with play.stage.sql_stopped():
        ends = time.monotonic() + play.dose.seconds
        while time.monotonic() < ends:
            spooled |= {path.name for path in play.stage.home.glob("spool/*.json")}
            time.sleep(0.1)
    play.seen["outcomes spooled"] = len(spooled)
    play.expect(bool(spooled), "no outcome waited for SQL")


def stop_sql_and_kill_redis(play: Play) -> None:
    play.slow(1.5, 2.5)
    play.stage.maintain()
    play.submit()
    play.stage.worker()
    play.until_calling(6)
    with play.stage.sql_stopped():
        with play.stage.redis_killed():
            time.sleep(play.dose.seconds / 2)
        time.sleep(play.dose.seconds / 2)


def storm(play: Play) -> None:
    dead = {"fault": "status", "status": 500, "model": "gpt-4o"}
    play.faults(dead, *STORM)
    play.stage.maintain()
    play.stage.worker(concurrency=16)
    play.submit()
    play.until_done(0.25)
    play.faults({"fault": "status", "status": 503})
    time.sleep(play.dose.seconds)
    play.faults(dead, *STORM)


def restart_rolling(play: Play) -> None:
    play.slow()
    play.stage.maintain()
    workers = [play.stage.worker() for _ in range(2)]
    statuses = []
    for _ in range(play.dose.times):
        play.submit(play.dose.jobs // play.dose.times)
        play.until_running(2)
        play.pause(0.1, 0.8)
        oldest = workers.pop(0)
        oldest.signal(signal.SIGTERM)
        workers.append(play.stage.worker())
        statuses.append(oldest.wait(40))
    play.seen["exit statuses"] = statuses
    play.expect(set(statuses) == {0}, f"workers ended with {statuses}")


def two_beats(play: Play) -> None:
    play.slow()
    play.submit()
    with play.stage.redis() as broker:
        for _ in range(len(play.ids) // 3):
            broker.lpop("parse")
    play.stage.maintain(beats=2)
    # sweepers of several processes at once
    play.stage.maintain(beats=0)
    dying = play.stage.worker()
    play.until_calling(3)
    dying.kill()
    play.stage.worker()


def fill_disk(play: Play) -> None:
    # whoever runs this, a file in a folder's place takes no files
    (play.stage.home / "spool").write_text("full")
    play.slow(1.5, 2.5)
    play.stage.maintain()
    play.submit()
    worker = play.stage.worker()
    play.until_calling(6)
    with play.stage.sql_stopped():
        time.sleep(play.dose.seconds)
    play.healed()
    log = play.stage.log_of(worker.name).read_text()
    play.seen["outcomes held in memory"] = log.count("waits in memory only")
    play.expect(play.seen["outcomes held in memory"] > 0, "no outcome waited in memory")
    play.until_done()


def tell_wrong_usage(play: Play) -> None:
    kinds = ("missing", "zero", "absurd", "negative")
    play.faults(*({"fault": "usage", "usage": kind, "share": 0.3} for kind in kinds))
    play.submit()
    play.stage.maintain()
    play.stage.worker()


QUICK_SQL = {"constants": {"SQLITE_BUSY_TIMEOUT_S": 0.2}}
VISIBLE = {"conf": {"broker_transport_options": {
    "visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1
}}}  # fmt: skip

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "01-worker-killed", kill_at_random, Dose(16, 2, 1.5), Dose(500, 200, 3, 600),
            "forgets_calls_of_the_dead", environment=PATIENT,
        ),
        Scenario(
            "02-killed-at-each-step", kill_at_each_step, Dose(3, 1), Dose(3, 20, within_s=300),
            "calls_before_it_records", environment=PATIENT,
        ),
        Scenario("03-message-lost", lose_messages, Dose(12), Dose(200), "never_looks_for_lost_messages",
            exactly_once=True),
        # without breakers: of a hundred failures they would let through one in half a minute
        Scenario("04-retry-not-published", fail_retries, Dose(8, 4), Dose(100, 50), "never_looks_for_lost_messages",
            exactly_once=True, environment={"BREAKER_MIN_CALLS": "10000"}),
        Scenario("05-replies-dropped", drop_replies, Dose(16, 4, 1), Dose(200, 20, 8, 240),
            "leaves_reservations_open"),
        Scenario("06-outlives-visibility", outlive_visibility, Dose(6, seconds=6), Dose(16, seconds=40),
            "takes_whatever_is_delivered", exactly_once=True, orders=VISIBLE),
        Scenario("07-redis-restarted-empty", restart_redis_empty, Dose(16, 1), Dose(250, 5),
            "believes_an_empty_ledger"),
        Scenario("08-sql-stopped", stop_sql, Dose(16, seconds=5), Dose(300, seconds=60),
            "drops_outcomes_while_sql_is_away", exactly_once=True, orders=QUICK_SQL),
        Scenario("09-sql-and-redis", stop_sql_and_kill_redis, Dose(16, seconds=4), Dose(200, seconds=40),
            "drops_outcomes_while_sql_is_away", exactly_once=True, orders=QUICK_SQL),
        Scenario("10-provider-storm", storm, Dose(24, seconds=2), Dose(500, seconds=30, within_s=600),
            "never_falls_back", least_success=0.99, environment={"LLM_CALL_DEADLINE_S": "3"},
            hurry={"BREAKER_COOLDOWN_S": "3", "BREAKER_WINDOW_S": "10"}),
        Scenario("11-rolling-restart", restart_rolling, Dose(16, 2), Dose(300, 20), "stops_at_once",
            exactly_once=True),
        Scenario("12-two-beats", two_beats, Dose(12), Dose(200), "forgets_calls_of_the_dead"),
        Scenario("13-disk-full", fill_disk, Dose(16, seconds=4), Dose(200, seconds=60), "needs_its_spool",
            exactly_once=True, orders=QUICK_SQL),
        Scenario("14-wrong-usage", tell_wrong_usage, Dose(24), Dose(400), "believes_any_usage"),
    )
}  # fmt: skip
