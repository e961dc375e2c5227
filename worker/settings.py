"""What the environment says about running jobs."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _level(value: Any) -> str:
    if (level := str(value).strip().upper()) in LEVELS:
        return level
    raise ValueError(f"{value!r} is no level; give one of {', '.join(LEVELS)}")


Level = Annotated[str, BeforeValidator(_level)]


class WorkerSettings(BaseSettings):
    """Running jobs, from the environment."""

    llm_call_deadline_s: float = Field(120, gt=0, le=900, description="The most that one provider call may take.")
    llm_http: Literal["own", "litellm"] = Field(
        "own",
        description="Who sends chat requests to OpenAI and Anthropic: `own` connections, with litellm as the "
        "translator, or `litellm`.",
    )
    llm_max_failures: int = Field(10, ge=1, le=50, description="Failed attempts after which a job is given up.")
    llm_max_lost_runs: int = Field(5, ge=1, le=50, description="Lost workers after which a job is given up.")
    worker_shutdown_s: float = Field(
        25, ge=0, le=3600, description="How long SIGTERM lets calls that are under way go on."
    )
    track_model_performance: bool = Field(
        True, description="Whether times and quality are kept and logged per attempt."
    )
    model_performance_log_level: Level = Field(
        "INFO", description="The level at which each attempt's line of performance is logged."
    )


class WatchSettings(BaseSettings):
    """What can be seen of this process, from the environment."""

    log_level: Level = Field("INFO", description="From which level on our own loggers write.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="JSON lines, or readable ones; auto: readable where standard error is a terminal."
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Where a worker serves its own metrics; 0: nowhere.")
    metrics_host: str = Field("127.0.0.1", description="The address it serves them on.")
