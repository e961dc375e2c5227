"""Where the SQL database is."""

from pydantic import Field
from pydantic_settings import BaseSettings


class DatabaseSettings(BaseSettings):
    """The SQL database, from the environment."""

    database_url: str = Field(
        "sqlite:///.paymaster/paymaster.db",
        repr=False,  # it may hold a password
        description="SQLAlchemy URL; `postgresql://…` runs on psycopg 3.",
    )

    @property
    def url(self) -> str:
        """The URL with the driver named: a bare `postgres(ql)://` means psycopg 3."""
        scheme, separator, rest = self.database_url.partition("://")
        return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgres", "postgresql") else self.database_url
