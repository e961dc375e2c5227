"""The variables that all processes of a stack, and the commands beside it, share."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings


def settings_classes() -> tuple[type["BaseSettings"], ...]:
    from api.settings import ApiSettings
    from budget.settings import BreakerSettings, BudgetSettings
    from selection.settings import SelectionSettings
    from watch.settings import AlertSettings
    from worker.settings import WatchSettings, WorkerSettings

    return (
        AlertSettings, ApiSettings, BreakerSettings, BudgetSettings, SelectionSettings, WatchSettings, WorkerSettings,
    )  # fmt: skip


def settings_names() -> set[str]:
    """The variables that all processes of a stack, and the commands beside it, must agree on."""
    return {name.upper() for settings in settings_classes() for name in settings.model_fields} - {
        "REDIS_URL",
        "METRICS_PORT",
    }


def secret_names() -> set[str]:
    """Those of them that are shown to nobody."""
    fields = [item for settings in settings_classes() for item in settings.model_fields.items()]
    return {name.upper() for name, field in fields if "SecretStr" in str(field.annotation)}
