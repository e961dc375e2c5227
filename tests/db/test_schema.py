"""A program that meets another schema than its own says what to do, and upgrades at once do no harm."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from db.migrate import downgrade, upgrade
from db.once import once_per_environment
from db.schema import HEAD, MIGRATIONS, REVISIONS, WrongSchema, check_schema
from db.session import engine, read

pytestmark = pytest.mark.usefixtures("environment")

PROGRAMS = {
    "worker": ["-m", "celery", "-A", "worker.app", "worker", "-Q", "maintenance"],
    "beat": ["-m", "celery", "-A", "worker.app", "beat"],
    "api": ["-m", "cli", "api", "--port", "0"],
    "command": ["-m", "cli", "jobs"],
}


def pretend(revision: str) -> None:
    with engine().begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_the_newest_revision_is_alembics() -> None:
    directory = ScriptDirectory(str(MIGRATIONS))
    assert directory.get_heads() == [HEAD]
    assert [script.revision for script in directory.walk_revisions()][::-1] == REVISIONS


def test_an_empty_an_old_and_a_new_database_are_told_apart() -> None:
    check_schema(engine())
    pretend("9999")
    with pytest.raises(WrongSchema, match=r"9999, newer than .* run the version that upgraded it"):
        check_schema(engine())
    with pytest.raises(WrongSchema, match="newer than"):
        upgrade()
    pretend(HEAD)
    downgrade("0004")
    with pytest.raises(WrongSchema, match=f"0004, older than {HEAD}.*run `paymaster db upgrade`"):
        check_schema(engine())
    downgrade("base")
    with pytest.raises(WrongSchema, match="no tables yet; run `paymaster db upgrade`"):
        check_schema(engine())


def test_nobody_reads_or_writes_another_schema() -> None:
    downgrade("0003")
    once_per_environment.forget_all()
    with pytest.raises(WrongSchema), read():
        pass
    upgrade()
    with read():  # it is looked at again, since it was not right
        pass


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_starts_on_an_old_schema(program: str) -> None:
    downgrade("0004")
    done = subprocess.run(
        [sys.executable, *PROGRAMS[program]], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("paymaster: ")]
    assert len(told) == 1 and "run `paymaster db upgrade`" in told[0], done.stderr
    assert "Traceback" not in done.stderr


def test_upgrades_at_once_wait_for_each_other() -> None:
    downgrade("base")
    together = threading.Barrier(6)

    def one(_: int) -> None:
        together.wait()
        upgrade()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    once_per_environment.forget_all()
    check_schema(engine())


def test_upgrades_of_two_processes_at_once() -> None:
    downgrade("base")
    engine().dispose()
    command = [sys.executable, "-m", "cli", "db", "upgrade", "--json"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in started] == [(b"", 0)] * 2
    check_schema(engine())
