"""SIGTERM in a process of its own: the first one counts, whatever comes after it, and the second ends it at once."""

import signal
import subprocess
import sys

BEGIN = """
import os, signal, threading
from worker import shutdown
shutdown.begin(3600)
"""
TWICE = """
shutdown.begin(0)
timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
assert [timer.interval for timer in timers] == [3600], timers
assert shutdown.stopping.is_set() and not shutdown.overtime.is_set()
print("as it was")
"""
NOTHING_UNDER_WAY = """
import logging
from worker import shutdown
logging.basicConfig()
shutdown.begin(0)
assert shutdown.overtime.wait(60)
print("as it was")
"""
SECOND_SIGTERM = """
os.kill(os.getpid(), signal.SIGTERM)
threading.Event().wait(60)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)


def test_a_shutdown_that_has_begun_is_not_begun_again() -> None:
    assert run(BEGIN + TWICE).stdout == "as it was\n"


def test_without_a_call_under_way_the_end_of_the_time_is_not_told() -> None:
    told = run(NOTHING_UNDER_WAY)
    assert (told.stdout, told.stderr) == ("as it was\n", "")


def test_a_second_sigterm_ends_the_process_at_once() -> None:
    assert run(BEGIN + SECOND_SIGTERM).returncode == 128 + signal.SIGTERM
