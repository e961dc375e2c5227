"""What Linux says of a process that runs: CPU, memory and descriptors."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def children(pid: int) -> list[int]:
    """The processes that it has started and that still run."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_s(pid: int) -> float:
    """CPU seconds so far of a process, of its children, and of those that it has already buried."""
    own = sum(int(field) for field in _stat(pid)[11:15]) / TICKS
    for child in children(pid):
        try:
            own += sum(int(field) for field in _stat(child)[11:13]) / TICKS
        except OSError:  # it has just ended, and is counted in its parent next time
            continue
    return own


def memory_mb(pid: int) -> dict[str, float]:
    """Megabytes resident (`rss`), and those of them that no file holds (`own`): the others come and go as the machine
    has room for its files."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    found = {words[0]: int(words[1]) / 1024 for words in lines if words[0] in ("Rss:", "Anonymous:")}
    return {"rss": found["Rss:"], "own": found["Anonymous:"]}


def descriptors(pid: int) -> int:
    """How many file descriptors it holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """How many threads it has."""
    return int(_stat(pid)[17])
