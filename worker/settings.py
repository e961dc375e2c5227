"""What the environment says about running jobs."""

from pydantic import Field
from pydantic_settings import BaseSettings


class WorkerSettings(BaseSettings):
    """Running jobs, from the environment."""

    llm_call_deadline_s: float = Field(120, gt=0, le=900, description="The most that one provider call may take.")
    llm_max_failures: int = Field(6, ge=1, le=50, description="Failed attempts after which a job is given up.")
    track_model_performance: bool = Field(True, description="Whether times and quality are kept per attempt.")
