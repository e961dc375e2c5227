"""Where the SQL database is, how it is used, and how long it keeps what people sent."""

from pydantic import Field
from pydantic_settings import BaseSettings


class DatabaseSettings(BaseSettings):
    """The SQL database, from the environment."""

    database_url: str = Field(
        "sqlite:///.paymaster/paymaster.db",
        repr=False,  # it may hold a password
        description="SQLAlchemy URL; `postgresql://…` runs on psycopg 3.",
    )
    database_pool_size: int = Field(20, ge=2, le=1000, description="The most connections of one process.")
    database_statement_timeout_s: int = Field(
        60, ge=0, le=86_400, description="The longest that PostgreSQL may work on one statement; 0 is no limit."
    )
    retention_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description="After so many days prompts, results and alerts are removed; 0: never.",
    )

    @property
    def url(self) -> str:
        """The URL with the driver named: a bare `postgres(ql)://` means psycopg 3."""
        scheme, separator, rest = self.database_url.partition("://")
        return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgres", "postgresql") else self.database_url
