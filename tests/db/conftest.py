"""Every test of this folder runs on SQLite and on PostgreSQL."""

from collections.abc import Iterator

import pytest

from tests.conftest import DATABASES, on_either_database


@pytest.fixture(params=DATABASES)
def environment(environment: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of a test, with a database of each kind."""
    yield from on_either_database(request, monkeypatch)
