"""A value that is read again now and then: by one thread, for all that wait for it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from worker.renewed import Renewed


def test_whoever_comes_while_the_first_value_is_read_waits_for_it_and_reads_nothing() -> None:
    reading, go_on, reads = threading.Event(), threading.Event(), []

    def read() -> str:
        reading.set()
        go_on.wait(60)
        reads.append(1)
        return "read"

    value = Renewed("the value", read, "none yet", 3600)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(value)
        assert reading.wait(60)
        second = pool.submit(value)
        time.sleep(0.2)  # until it waits
        go_on.set()
        assert (first.result(60), second.result(60), value()) == ("read", "read", "read")
    assert reads == [1]
