"""`paymaster doctor`: everything that can be wrong, in one look. It asks all at once and waits for nobody for long."""

import threading
import time
from collections.abc import Sequence

# celery puts another module into its own place while it is imported, which two probes at once would not survive
import celery  # noqa: F401

from cli import output, probes, probes_here
from cli.findings import Finding, Level, Probe, error, kind_of
from db.environment import SettingsError

# a server that takes a connection and says nothing; each probe has shorter limits of its own where it can, and
# patience with what was just started
WITHIN_S = 30.0
PROBES: tuple[Probe, ...] = (
    probes_here.settings, probes_here.agreement, probes_here.models, probes.ledger_redis, probes.database,
    probes.broker_and_workers, probes_here.files, probes_here.people,
)  # fmt: skip
STATUS = {Level.WARNING: 1, Level.ERROR: 2}
STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}


def examine(asked: Sequence[Probe] = PROBES, within_s: float = WITHIN_S) -> list[Finding]:
    """What all probes find, in their order; one that ends in no time is a finding, too."""
    found: list[list[Finding]] = [[] for _ in asked]
    # a probe that hangs must not keep the process: daemons, and no pool, which would wait for them at the end
    threads = [
        threading.Thread(target=_run, args=(probe, place), daemon=True)
        for probe, place in zip(asked, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + within_s
    for thread, probe, place in zip(threads, asked, found, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            place.append(error(_name(probe), f"gave no answer within {within_s:g} s", "See whether its server hangs."))
    return [finding for place in found for finding in list(place)]


def _name(probe: Probe) -> str:
    return probe.__name__.replace("_", " ")


def _run(probe: Probe, place: list[Finding]) -> None:
    try:
        for finding in probe():
            place.append(finding)  # noqa: PERF402  # what is found before it hangs counts
    except (SettingsError, SystemExit) as fault:
        sentence = str(fault).removeprefix("paymaster: ")
        place.append(error(_name(probe), sentence, "Set it right; nothing that depends on it was looked at."))
    except BaseException as failure:
        place.append(
            error(_name(probe), f"could not be looked at ({kind_of(failure)})", "This is a fault of the doctor's.")
        )


def run_doctor(*, as_json: bool) -> int:
    """Print what is found; the exit status: 0 if all is well, 1 if there are warnings, 2 if there are errors."""
    import logging

    from worker.logs import redact

    # what libraries say of servers that are away would stand between the lines
    logging.disable(logging.CRITICAL)
    found = [
        Finding(one.level, one.subject, redact(one.sentence), redact(one.remedy)) for one in dict.fromkeys(examine())
    ]
    status = max((STATUS.get(one.level, 0) for one in found), default=0)
    if as_json:
        rows = [{"level": one.level, "subject": one.subject, "finding": one.sentence, "remedy": one.remedy}
                for one in found]  # fmt: skip
        output.print_json({"status": status, "findings": rows})
        return status
    for one in found:
        output.console.print(f"[{STYLES[one.level]}]{one.level:<8}[/] ", end="")
        output.console.print(f"{one.subject}: {one.sentence}", markup=False, highlight=False, soft_wrap=True)
        if one.remedy:
            output.console.print(f"         → {one.remedy}", markup=False, highlight=False, soft_wrap=True)
    counts = {level: sum(one.level is level for one in found) for level in (Level.ERROR, Level.WARNING)}
    words = [f"{number} {level}{'s' if number > 1 else ''}" for level, number in counts.items() if number]
    output.console.print(f"\n{', '.join(words) or 'All is well'}.", highlight=False)
    return status
