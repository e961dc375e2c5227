"""What the environment says about choosing a model."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PrivateAttr
from pydantic_settings import BaseSettings, NoDecode

from selection.split import Shares, parse_shares

OF_AN_API = "LLM_MODEL_"
ALLOWED = "LLM_MODEL_ALLOWED"
# LLM_MODEL_<API> as well, by their names, but nobody's own
NO_API = ("LLM_MODEL_DEFAULT", ALLOWED)


def variable_of(api: str) -> str:
    """The variable that sets the model of one API of the product: `keywords` → `LLM_MODEL_KEYWORDS`."""
    return OF_AN_API + api.upper().replace("-", "_")


def _variables_of_apis() -> dict[str, str]:
    """The variables that speak of an API's models."""
    return {name: told for name, value in os.environ.items() if name.startswith(OF_AN_API) and (told := value.strip())}


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(name for part in parts if (name := part.strip()))


class SelectionSettings(BaseSettings):
    """Selection, from the environment, which is read when this is made and never on the way of a job."""

    model_selection_strategy: str = Field("balanced", description="The strategy of jobs that name none.")
    model_split_test: Annotated[Shares, NoDecode, BeforeValidator(parse_shares)] = Field(
        (), description="The shares in percent of the users that fall into each strategy."
    )
    model_selection_adaptive: bool = Field(False, description="Whether models are chosen by their measured record.")
    model_registry_file: Annotated[Path | None, BeforeValidator(lambda path: path or None)] = Field(
        None, description="A file of models that extends or replaces the registry."
    )
    enable_llm_model_override: bool = Field(True, description="Whether a job's own `model` is honoured.")
    enable_llm_model_header: bool = Field(False, description="Whether the header `X-LLM-Model` is honoured.")
    llm_model_default: str = Field("gpt-4o-mini", description="The chat model where no rule names one.")
    llm_model_allowed: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (), description="The models that jobs may ask for, separated by commas; empty for all."
    )

    # the names of these variables are not known beforehand
    _of_apis: dict[str, str] = PrivateAttr(default_factory=_variables_of_apis)

    @property
    def named_models(self) -> dict[str, tuple[str, ...]]:
        """Variable -> the models it names, of every variable that names some."""
        named = {n: _names(value) if n.startswith(ALLOWED) else (value,) for n, value in self._of_apis.items()}
        return named | {"LLM_MODEL_DEFAULT": (self.llm_model_default,), ALLOWED: self.llm_model_allowed}

    def model_for_api(self, api: str | None) -> str | None:
        """The model that `LLM_MODEL_<API>` sets for one API of the product."""
        if not api or (name := variable_of(api)) in NO_API or name.startswith(f"{ALLOWED}_"):
            return None
        return self._of_apis.get(name)

    def allowed_for_api(self, api: str | None) -> tuple[str, ...]:
        """The models that a job of this API may ask for: `LLM_MODEL_ALLOWED_<API>`, else `LLM_MODEL_ALLOWED`; empty
        for all."""
        own = self._of_apis.get(variable_of(f"allowed_{api}")) if api else None
        return (_names(own) if own else ()) or self.llm_model_allowed
