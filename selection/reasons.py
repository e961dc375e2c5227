"""Why a model was taken: a closed vocabulary, so that reasons can be counted. docs/selection.md explains each."""

import re
from enum import StrEnum


class Reason(StrEnum):
    """The reasons that are one word. The others are `by_rule` and `after_failure`."""

    REQUESTED_MODEL = "requested_model"
    HEADER_MODEL = "header_model"
    API_MODEL_SETTING = "api_model_setting"
    DEFAULT_MODEL = "default_model"
    ADAPTIVE_RECORD = "adaptive_record"
    ADAPTIVE_EXPLORATION = "adaptive_exploration"
    # the first choice was passed over
    CONTEXT_TOO_SMALL = "context_too_small"
    MAX_OUTPUT_TOO_SMALL = "max_output_too_small"
    MODEL_DEPRECATED = "model_deprecated"
    # of later attempts, and of the runner
    BUDGET_DOWNGRADE = "budget_downgrade"
    MODEL_OF_EARLIER_PARTS = "model_of_earlier_parts"


def by_rule(strategy: str, level: str) -> str:
    """The strategy's ladder decided: `balanced_strategy_general_complexity`."""
    return f"{strategy}_strategy_{level}_{'use_case' if level in ('semantic', 'standard') else 'complexity'}"


def after_failure(code: str) -> str:
    """The candidate before failed with this code: `fallback_after_http_503`."""
    return f"fallback_after_{code}"


_BY_RULE = r"[a-z][a-z0-9_]*_strategy_((low|general|high)_complexity|(standard|semantic)_use_case)"
_AFTER_FAILURE = r"fallback_after_\w+"
_PATTERN = re.compile(f"{_BY_RULE}|{_AFTER_FAILURE}|{'|'.join(Reason)}")


def is_reason(text: str) -> bool:
    """Whether the vocabulary has it."""
    return _PATTERN.fullmatch(text) is not None
