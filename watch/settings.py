"""What the environment says about watching."""

from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from budget.settings import parse_share
from watch.addresses import NotPublic, check_literal


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(name for part in parts if (name := str(part).strip()))


def _shares(value: Any) -> tuple[Decimal, ...]:
    return tuple(parse_share(name) for name in _names(value))


def _mailbox(value: Any) -> str:
    text = str(value).strip()
    name, _, domain = text.rpartition("@")
    if not (name and domain and text.isascii() and text.isprintable()) or set(' ,<>"') & set(text):
        raise ValueError(f"{text[:60]!r} is no e-mail address; give one such as 'ops@example.com'")
    return text


def _mailboxes(value: Any) -> tuple[str, ...]:
    return tuple(_mailbox(name) for name in _names(value))


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class AlertSettings(BaseSettings):
    """Alerts, from the environment: when they are raised, and where they go. The log gets all of them."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    cost_alert_thresholds: Annotated[tuple[Decimal, ...], NoDecode, BeforeValidator(_shares)] = Field(
        (), description="Further shares of a budget that raise an alert each; 1, used up, always does."
    )
    alert_p95_ms: int = Field(5000, ge=1, description="The p95 time of a model's calls above which it is slow.")
    alert_failure_share: Annotated[Decimal, BeforeValidator(parse_share)] = Field(
        Decimal("0.05"), description="The share of a model's calls that may fail."
    )
    alert_quality: Annotated[Decimal, BeforeValidator(parse_share)] = Field(
        Decimal("0.8"), description="The least quality that the answers under a strategy should have on average."
    )
    alert_min_samples: int = Field(20, ge=1, le=1_000_000, description="Fewer calls than this say nothing.")
    alert_window_s: int = Field(900, ge=60, le=86_400, description="How far back calls count.")
    alert_timeout_s: float = Field(10, gt=0, le=30, description="How long a channel may take for one message.")

    public_url: str | None = Field(None, description="Where people reach the API's page; alerts link to it.")

    alert_webhook_allowed_hosts: Names = Field((), description="Hosts that may be private, and need no https.")
    alert_webhook_secret: SecretStr | None = Field(None, description="What messages to the webhook are signed with.")
    alert_webhook_url: SecretStr | None = Field(None, description="Where alerts are posted as JSON, as Slack takes it.")

    smtp_host: str | None = Field(None, description="The mail server.")
    smtp_port: int = Field(587, ge=1, le=65_535, description="Its port.")
    smtp_tls: Literal["starttls", "tls", "none"] = Field("starttls", description="How mail is protected on its way.")
    smtp_user: str | None = Field(None, description="The name to log in with, if there is a login.")
    smtp_password: SecretStr | None = Field(None, description="The password to it.")
    alert_email_from: Annotated[str, BeforeValidator(_mailbox)] = Field(
        "paymaster@localhost", description="The sender of alerts."
    )
    alert_email_to: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_mailboxes)] = Field(
        (), description="Who gets alerts by e-mail, separated by commas."
    )

    @field_validator("public_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        try:
            url = urlsplit(value or "http://host")
            good = url.scheme in ("http", "https") and url.hostname and not (url.query or url.fragment or url.username)
        except ValueError:
            good = False
        if not good or (value and not (value.isascii() and value.isprintable())):
            raise ValueError("is no address; give one such as https://paymaster.example.com")
        return value and value.rstrip("/")

    @field_validator("alert_webhook_url")
    @classmethod
    def _can_be_posted_to(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """What is wrong is said without the URL itself: those of Slack are secret."""
        if value is None:
            return None
        allowed = info.data.get("alert_webhook_allowed_hosts", ())
        try:
            url = urlsplit(value.get_secret_value())
            host, scheme, user, _ = url.hostname, url.scheme, url.username, url.port
        except ValueError:
            host, scheme, user = None, "", None
        if not host or scheme not in ("http", "https") or user is not None:
            raise ValueError("is no address to post to; give one such as https://hooks.example.com/…, without a login")
        if host not in allowed:
            if scheme != "https":
                raise ValueError(f"must begin with https://, or name {host} in ALERT_WEBHOOK_ALLOWED_HOSTS")
            try:
                check_literal(host)
            except NotPublic as refusal:
                raise ValueError(f"{refusal}; name it in ALERT_WEBHOOK_ALLOWED_HOSTS if it is meant") from None
        return value

    @field_validator("smtp_password")
    @classmethod
    def _is_not_told_in_the_clear(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and info.data.get("smtp_user") is None:
            raise ValueError("is of no use without SMTP_USER; set both")
        if value is not None and info.data.get("smtp_tls") == "none":
            raise ValueError("would be sent in the clear; set SMTP_TLS to starttls or tls")
        return value

    @field_validator("alert_email_to")
    @classmethod
    def _has_a_server(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("smtp_host") is None:
            raise ValueError("needs SMTP_HOST, the mail server that takes alerts")
        return value

    @property
    def webhook_url(self) -> str:
        """The secret itself, empty if there is none."""
        return "" if self.alert_webhook_url is None else self.alert_webhook_url.get_secret_value()

    @property
    def channels(self) -> tuple[str, ...]:
        """Where alerts go."""
        return (
            "log",
            *(("webhook",) if self.alert_webhook_url is not None else ()),
            *(("email",) if self.alert_email_to else ()),
        )
