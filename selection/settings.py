"""What the environment says about choosing a model."""

import os

from pydantic import Field
from pydantic_settings import BaseSettings


class SelectionSettings(BaseSettings):
    """Selection, from the environment."""

    model_selection_strategy: str = Field("balanced", description="The strategy of jobs that name none.")
    enable_llm_model_override: bool = Field(True, description="Whether a job's own `model` is honoured.")
    enable_llm_model_header: bool = Field(False, description="Whether the header `X-LLM-Model` is honoured.")
    llm_model_default: str = Field("gpt-4o-mini", description="The chat model where no rule names one.")

    def model_for_api(self, api: str | None) -> str | None:
        """The model that `LLM_MODEL_<API>` sets for one API of the product (`LLM_MODEL_KEYWORDS`, …)."""
        if api is None or api.lower() == "default":  # LLM_MODEL_DEFAULT is nobody's own
            return None
        return os.environ.get(f"LLM_MODEL_{api.upper().replace('-', '_')}") or None
