"""How an alert reaches people: the log, a webhook, e-mail. What goes wrong is told in a few words of our own: other
texts may quote a URL that is a secret."""

import asyncio
import hashlib
import hmac
import html
import json
import logging
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from datetime import datetime
from email.message import EmailMessage
from typing import Any

from db.environment import read_settings
from db.models import Alert, utc_now
from watch.addresses import NotPublic, resolve
from watch.settings import AlertSettings

logger = logging.getLogger(__name__)


class Undelivered(Exception):
    """A channel did not take the message; why, without an address or a secret."""


def send(channel: str, alert: Alert) -> str | None:
    """Send one alert over one channel; raises `Undelivered`. What is returned is a remark on how it went."""
    settings = read_settings(AlertSettings)
    if channel not in settings.channels:
        raise Undelivered("the channel is not configured")
    return _SEND[channel](alert, settings)


def trial() -> Alert:
    """A message that tells of nothing, to see whether it arrives; it is in no table."""
    message = "This is a test: alerts of this installation arrive here."
    now = utc_now()
    return Alert(
        id=0, kind="test", subject="test", period=f"{now:%Y-%m-%d}", threshold="0", message=message, created_at=now
    )


def _log(alert: Alert, _: AlertSettings) -> None:
    logger.warning("alert: %s", alert.message)


def payload(alert: Alert) -> dict[str, Any]:
    """What a webhook gets: `text` as Slack reads it, where a user's name can mention nobody, and the plain fields.
    An `id` that comes twice is the same alert, sent again after a crash."""
    created: datetime = alert.created_at
    url = page_of(alert)
    return {
        "text": f"Paymaster: {html.escape(alert.message, quote=False)}" + (f" <{url}>" if url else ""),
        "id": alert.id,
        "kind": str(alert.kind),
        "subject": alert.subject,
        "period": alert.period,
        "threshold": alert.threshold,
        "message": alert.message,
        "created_at": created.isoformat(),
        **({"url": url} if url else {}),
    }


def page_of(alert: Alert) -> str | None:
    """Where people see more: the alerts on the API's page, if it is known where that is."""
    address = read_settings(AlertSettings).public_url
    return f"{address}/#alert-{alert.id}" if address else None


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `timestamp.body`, so that neither can be replaced."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _webhook(alert: Alert, settings: AlertSettings) -> None:
    body = json.dumps(payload(alert)).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "paymaster"}
    if settings.alert_webhook_secret is not None:
        timestamp = str(int(time.time()))
        secret = settings.alert_webhook_secret.get_secret_value()
        headers |= {
            "X-Paymaster-Timestamp": timestamp,
            "X-Paymaster-Signature": signature(secret, timestamp, body),
        }
    status = asyncio.run(_post(settings, body, headers))
    if 300 <= status < 400:
        raise Undelivered(f"the webhook answered {status}; redirects are not followed")
    if not 200 <= status < 300:
        raise Undelivered(f"the webhook answered {status}")


async def _post(settings: AlertSettings, body: bytes, headers: dict[str, str]) -> int:
    """The status of the answer; nothing else of it is read."""
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult
    from yarl import URL

    url = URL(settings.webhook_url)
    host, port, allowed = url.host or "", url.port or 443, settings.alert_webhook_allowed_hosts

    class Checked(AbstractResolver):
        """Knows the addresses that were checked, and no others."""

        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
            return [
                ResolveResult(
                    hostname=host, host=address, port=port, proto=0, flags=socket.AI_NUMERICHOST,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                )
                for address in addresses
            ]  # fmt: skip

        async def close(self) -> None:
            pass

    try:
        async with asyncio.timeout(settings.alert_timeout_s):
            addresses = await asyncio.to_thread(resolve, host, port, allowed)
            # the surroundings' proxies would resolve the name once more
            connector = aiohttp.TCPConnector(resolver=Checked(), ssl=ssl.create_default_context(), force_close=True)
            async with (
                aiohttp.ClientSession(connector=connector, trust_env=False) as session,
                session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                return answer.status
    except NotPublic as refusal:
        raise Undelivered(f"the webhook's host has an address that is not allowed: {refusal}") from None
    except TimeoutError:
        raise Undelivered(f"the webhook gave no answer within {settings.alert_timeout_s:g} s") from None
    except (OSError, aiohttp.ClientError) as error:
        raise Undelivered(f"the webhook cannot be reached: {type(error).__name__}") from None


def _email(alert: Alert, settings: AlertSettings) -> str | None:
    mail = EmailMessage()
    mail["Subject"] = f"Paymaster alert: {alert.kind} {alert.subject} {alert.period}"
    mail["From"] = settings.alert_email_from
    mail["To"] = ", ".join(settings.alert_email_to)
    # the same alert, sent again after a crash, is the same mail
    mail["Message-ID"] = f"<paymaster-alert-{alert.id}-{alert.created_at.timestamp():.0f}@{_domain(settings)}>"
    mail["Auto-Submitted"] = "auto-generated"
    link = page_of(alert)
    mail.set_content(f"{alert.message}\n" + (f"\n{link}\n" if link else ""))
    try:
        with _mail_server(settings) as server:
            refused = server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        codes = sorted({code for code, _ in error.recipients.values()})
        raise Undelivered(f"the mail server refused all recipients: {codes}") from None
    except smtplib.SMTPResponseException as error:
        raise Undelivered(f"the mail server answered {error.smtp_code}") from None
    except TimeoutError:
        raise Undelivered(f"the mail server gave no answer within {settings.alert_timeout_s:g} s") from None
    except (OSError, smtplib.SMTPException) as error:
        raise Undelivered(f"the mail server cannot be used: {type(error).__name__}") from None
    return f"{len(refused)} of {len(settings.alert_email_to)} recipients were refused" if refused else None


def _domain(settings: AlertSettings) -> str:
    return settings.alert_email_from.rpartition("@")[2]


def _mail_server(settings: AlertSettings) -> smtplib.SMTP:
    """A connection to the mail server, as protected as it is to be, and logged in."""
    where = (settings.smtp_host or "", settings.smtp_port)
    context = ssl.create_default_context()
    server: smtplib.SMTP
    if settings.smtp_tls == "tls":
        server = smtplib.SMTP_SSL(*where, timeout=settings.alert_timeout_s, context=context)
    else:
        server = smtplib.SMTP(*where, timeout=settings.alert_timeout_s)
    try:
        if settings.smtp_tls == "starttls":
            server.starttls(context=context)
        if settings.smtp_user is not None:
            password = settings.smtp_password
            server.login(settings.smtp_user, password.get_secret_value() if password else "")
    except BaseException:
        server.close()
        raise
    return server


_SEND: dict[str, Callable[[Alert, AlertSettings], str | None]] = {"log": _log, "webhook": _webhook, "email": _email}
