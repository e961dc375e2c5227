"""The current strategy: the environment's, unless somebody has set another one while the system runs. SQL keeps it, and
who set it; every process reads it again twice a second."""

from db.changes import in_force, record
from db.environment import read_settings
from db.once import once_per_environment
from db.session import read, write
from selection.settings import SelectionSettings
from selection.strategies import find_strategy
from worker.renewed import Renewed

DEFAULT = "default"
EVERY_S = 0.5


def _read() -> str | None:
    with read() as session:
        return in_force(session, "strategy").get("")


@once_per_environment
def _set() -> Renewed[str | None]:
    return Renewed("the current strategy", _read, None, EVERY_S)


def strategy_in_force() -> str:
    """The current strategy by SQL, now."""
    return _read() or read_settings(SelectionSettings).model_selection_strategy


def current_strategy() -> str:
    """The strategy of jobs that name none and fall into none, at most a second old while SQL is there."""
    return _set()() or read_settings(SelectionSettings).model_selection_strategy


def set_strategy(name: str, who: str) -> str:
    """Let every process use another strategy, within a second and over restarts; `default` is the environment's again.
    Returns the strategy that holds. Raises `UnknownStrategy`."""
    after = None if name == DEFAULT else find_strategy(name).name
    environment = read_settings(SelectionSettings).model_selection_strategy
    with write() as session:
        before = in_force(session, "strategy").get("", environment)
        record(session, "strategy", "", before, after, who)
    return after or environment
