"""Alerts over a real HTTP receiver and a real mail server."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from db.environment import SettingsError, read_settings
from db.models import Alert, utc_now
from tests.watch.conftest import Configure, Receiver
from watch.channels import Undelivered, payload, send, signature
from watch.settings import AlertSettings

pytestmark = pytest.mark.usefixtures("environment")


def an_alert(**fields: Any) -> Alert:
    row = {"id": 7, "kind": "budget", "subject": "daily", "period": "2026-11-22", "threshold": "0.8",
           "message": "The daily budget is 83 % used.", "created_at": utc_now()}  # fmt: skip
    return Alert(**{**row, **fields})


# --- webhook ---------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_what_slack_reads_and_the_plain_fields_signed(webhook: Receiver) -> None:
    alert = an_alert()
    send("webhook", alert)
    ((status, headers, body),) = webhook.seen
    (told,) = webhook.accepted
    assert status == 200
    assert told == payload(alert)
    assert told["text"] == "Paymaster: The daily budget is 83 % used."
    assert (told["id"], told["kind"], told["subject"], told["threshold"]) == (7, "budget", "daily", "0.8")
    timestamp = headers["X-Paymaster-Timestamp"]
    assert headers["X-Paymaster-Signature"] == signature("s3cret", timestamp, body)
    assert headers["X-Paymaster-Signature"] != signature("s3cret", str(int(timestamp) + 1), body)
    assert headers["X-Paymaster-Signature"] != signature("another", timestamp, body)
    assert headers["Content-Type"] == "application/json"


def test_the_signature_is_the_one_that_the_documentation_describes() -> None:
    # printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac s3cret
    expected = "sha256=1698a50bc74d1ff1db85c4e0a5297c2ad9fdba245d5737cdb789e4cc6e098940"
    assert signature("s3cret", "1700000000", b'{"a":1}') == expected


def test_without_a_secret_nothing_is_signed(webhook: Receiver, configure: Configure) -> None:
    configure(ALERT_WEBHOOK_SECRET="")
    send("webhook", an_alert())
    assert not [name for name in webhook.seen[0][1] if name.startswith("X-Paymaster")]


def test_a_users_name_mentions_nobody_on_slack(webhook: Receiver) -> None:
    send("webhook", an_alert(subject="user:<!channel>", message="The budget of user <!channel> & co."))
    (told,) = webhook.accepted
    assert told["text"] == "Paymaster: The budget of user &lt;!channel&gt; &amp; co."


@pytest.mark.parametrize(("status", "told"), [(500, "answered 500"), (404, "answered 404"), (429, "answered 429")])
def test_a_webhook_that_refuses_is_told_by_its_status_only(webhook: Receiver, status: int, told: str) -> None:
    webhook.statuses = [status]
    with pytest.raises(Undelivered, match=f"{told}$"):
        send("webhook", an_alert())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(webhook: Receiver, status: int) -> None:
    webhook.statuses = [status]
    webhook.location = webhook.url
    with pytest.raises(Undelivered, match=f"answered {status}; redirects are not followed"):
        send("webhook", an_alert())
    assert len(webhook.seen) == 1


def test_a_name_that_leads_to_a_private_address_is_not_connected_to(webhook: Receiver, configure: Configure) -> None:
    port = webhook.url.split(":")[2].partition("/")[0]
    configure(ALERT_WEBHOOK_URL=f"https://localhost:{port}/x", ALERT_WEBHOOK_ALLOWED_HOSTS="")
    with pytest.raises(Undelivered, match="an address that is not allowed"):
        send("webhook", an_alert())
    assert webhook.seen == []


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(
    webhook: Receiver, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once, and the connection goes to the very address that was checked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebind(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host == "rebind.example":
            asked.append(host)
            return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port, *rest, **options)
        return real(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    configure(
        ALERT_WEBHOOK_URL=webhook.url.replace("127.0.0.1", "rebind.example"),
        ALERT_WEBHOOK_ALLOWED_HOSTS="rebind.example",
    )
    send("webhook", an_alert())
    assert len(asked) == 1
    assert len(webhook.accepted) == 1


def test_a_webhook_that_hangs_is_left_after_the_time_it_has(webhook: Receiver, configure: Configure) -> None:
    webhook.statuses = [0]
    configure(ALERT_TIMEOUT_S="0.3")
    with pytest.raises(Undelivered, match=r"gave no answer within 0\.3 s"):
        send("webhook", an_alert())


def test_no_error_quotes_the_url(configure: Configure) -> None:
    configure(ALERT_WEBHOOK_URL="http://127.0.0.1:1/secret-token", ALERT_WEBHOOK_ALLOWED_HOSTS="127.0.0.1")
    with pytest.raises(Undelivered, match="cannot be reached") as failure:
        send("webhook", an_alert())
    assert "secret" not in str(failure.value) and "127" not in str(failure.value)


def test_https_is_checked_against_the_name(
    receiver: Receiver, configure: Configure, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, certificate))
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            where = f"https://{{}}:{server.server_port}/x"
            allowed = {"ALERT_WEBHOOK_ALLOWED_HOSTS": "localhost,127.0.0.1"}
            configure(ALERT_WEBHOOK_URL=where.format("localhost"), **allowed)
            with pytest.raises(Undelivered, match="cannot be reached: ClientConnectorCertificateError"):
                send("webhook", an_alert())
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
            send("webhook", an_alert())
            configure(ALERT_WEBHOOK_URL=where.format("127.0.0.1"), **allowed)
            with pytest.raises(Undelivered, match="CertificateError"):
                send("webhook", an_alert())
        finally:
            server.shutdown()
            thread.join(10)


# --- e-mail ----------------------------------------------------------------------------------------------------------


class Mailbox:
    """Keeps what arrives; refuses recipients that are named so."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address.startswith("refused"):
            return "550 no such mailbox, says secret-server"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"


def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and data.login == b"ops" and data.password == b"pass-word"
    return AuthResult(success=right, handled=False)


Start = Callable[..., Any]


@pytest.fixture
def mail_server() -> Iterator[tuple[Mailbox, Start]]:
    """A mailbox, and how to start the server before it; returns its port."""
    mailbox, running = Mailbox(), []

    @contextmanager
    def closing() -> Iterator[None]:
        try:
            yield
        finally:
            for controller in running:
                controller.stop(no_assert=True)

    def start(*, ssl_context: ssl.SSLContext | None = None, **options: Any) -> int:
        class Own(Controller):
            def _trigger_server(self) -> None:
                self.port = self.server.sockets[0].getsockname()[1]
                super()._trigger_server()

        controller = Own(mailbox, hostname="127.0.0.1", port=0, ssl_context=ssl_context, **options)
        controller.start()
        running.append(controller)
        return int(controller.port)

    with closing():
        yield mailbox, start


def mail(configure: Configure, port: int, **more: Any) -> None:
    configure(**{
        "SMTP_HOST": "localhost", "SMTP_PORT": port, "ALERT_EMAIL_TO": "a@example.com, b@example.com",
        "ALERT_EMAIL_FROM": "paymaster@example.com", "ALERT_TIMEOUT_S": "5", **more,
    })  # fmt: skip


def test_an_alert_is_a_mail_to_all(mail_server: tuple[Mailbox, Start], configure: Configure) -> None:
    mailbox, start = mail_server
    mail(configure, start(), SMTP_TLS="none")
    assert send("email", an_alert()) is None
    (got,) = mailbox.mails
    assert (got.mail_from, got.rcpt_tos) == ("paymaster@example.com", ["a@example.com", "b@example.com"])
    text = got.content.decode()
    assert "Subject: Paymaster alert: budget daily 2026-11-22" in text
    assert "The daily budget is 83 % used." in text
    assert "Message-ID: <paymaster-alert-7-" in text


def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, certificate))
    return context


def test_starttls_and_a_login(
    mail_server: tuple[Mailbox, Start], configure: Configure, certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    mailbox, start = mail_server
    port = start(tls_context=tls(certificate), require_starttls=True, auth_required=True, authenticator=authenticate)
    mail(configure, port, SMTP_USER="ops", SMTP_PASSWORD="pass-word")
    with pytest.raises(Undelivered, match="SSLCertVerificationError"):
        send("email", an_alert())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    send("email", an_alert())
    assert len(mailbox.mails) == 1
    configure(SMTP_PASSWORD="wrong-word")
    with pytest.raises(Undelivered, match=r"answered 535$"):
        send("email", an_alert())


def test_tls_from_the_first_byte_on(
    mail_server: tuple[Mailbox, Start], configure: Configure, certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    mailbox, start = mail_server
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    mail(configure, start(ssl_context=tls(certificate)), SMTP_TLS="tls")
    send("email", an_alert())
    assert len(mailbox.mails) == 1


def test_a_server_without_starttls_gets_no_mail(mail_server: tuple[Mailbox, Start], configure: Configure) -> None:
    mailbox, start = mail_server
    mail(configure, start())
    with pytest.raises(Undelivered, match="SMTPNotSupportedError"):
        send("email", an_alert())
    assert mailbox.mails == []


def test_recipients_that_are_refused_are_counted_and_the_others_get_it_once(
    mail_server: tuple[Mailbox, Start], configure: Configure
) -> None:
    mailbox, start = mail_server
    port = start()
    mail(configure, port, SMTP_TLS="none", ALERT_EMAIL_TO="a@example.com,refused@example.com")
    assert send("email", an_alert()) == "1 of 2 recipients were refused"
    assert len(mailbox.mails) == 1
    configure(ALERT_EMAIL_TO="refused@example.com")
    with pytest.raises(Undelivered, match=r"refused all recipients: \[550\]$") as failure:
        send("email", an_alert())
    assert "secret" not in str(failure.value)


def test_a_mail_server_that_hangs_is_left(configure: Configure) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mail(configure, silent.getsockname()[1], SMTP_HOST="127.0.0.1", SMTP_TLS="none", ALERT_TIMEOUT_S="0.3")
        with pytest.raises(Undelivered, match="the mail server"):
            send("email", an_alert())


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_log_is_always_a_channel_and_the_others_where_they_are_set(configure: Configure) -> None:
    assert read_settings(AlertSettings).channels == ("log",)
    configure(ALERT_WEBHOOK_URL="https://hooks.example.com/x", SMTP_HOST="mail", ALERT_EMAIL_TO="a@b.example")
    assert read_settings(AlertSettings).channels == ("log", "webhook", "email")


def test_a_channel_that_is_not_configured_takes_nothing() -> None:
    for channel in ("webhook", "email", "pigeon"):
        with pytest.raises(Undelivered, match="not configured"):
            send(channel, an_alert())


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"ALERT_WEBHOOK_URL": "hooks.example.com/x"}, "ALERT_WEBHOOK_URL: is no address to post to"),
        ({"ALERT_WEBHOOK_URL": "https://me:secret@x.example/"}, "ALERT_WEBHOOK_URL: is no address to post to"),
        ({"ALERT_WEBHOOK_URL": "http://x.example/secret"}, "ALERT_WEBHOOK_URL: must begin with https://, or name x.ex"),
        ({"ALERT_WEBHOOK_URL": "https://169.254.169.254/secret"}, "ALERT_WEBHOOK_URL: 169.254.169.254 is not a public"),
        ({"ALERT_WEBHOOK_URL": "https://10.0.0.1/secret"}, "ALERT_WEBHOOK_URL: 10.0.0.1 is not a public address"),
        ({"ALERT_WEBHOOK_URL": "https://[::1]/secret"}, "ALERT_WEBHOOK_URL: ::1 is not a public address"),
        ({"ALERT_WEBHOOK_URL": "https://[::ffff:10.0.0.1]/"}, "ALERT_WEBHOOK_URL: ::ffff:10.0.0.1 is not a public"),
        ({"ALERT_EMAIL_TO": "a@b.example"}, "ALERT_EMAIL_TO: needs SMTP_HOST"),
        ({"ALERT_EMAIL_TO": "somebody", "SMTP_HOST": "m"}, "ALERT_EMAIL_TO: 'somebody' is no e-mail address"),
        ({"ALERT_EMAIL_FROM": "a\nBcc: x@y.example"}, "ALERT_EMAIL_FROM: "),
        ({"SMTP_PASSWORD": "secret"}, "SMTP_PASSWORD: is of no use without SMTP_USER"),
        (
            {"SMTP_PASSWORD": "secret", "SMTP_USER": "me", "SMTP_TLS": "none"},
            "SMTP_PASSWORD: would be sent in the clear",
        ),
        ({"SMTP_TLS": "perhaps"}, "SMTP_TLS: Input should be 'starttls', 'tls' or 'none'"),
        ({"COST_ALERT_THRESHOLDS": "0.5,80"}, "COST_ALERT_THRESHOLDS: '80' is no share; give a number above 0"),
        ({"ALERT_FAILURE_SHARE": "5 %"}, "ALERT_FAILURE_SHARE: '5 %' is no share"),
        ({"ALERT_MIN_SAMPLES": "0"}, "ALERT_MIN_SAMPLES: "),
    ],
)
def test_a_bad_setting_is_one_sentence_without_the_secret(
    variables: dict[str, str], sentence: str, configure: Configure
) -> None:
    configure(**variables)
    with pytest.raises(SettingsError) as refusal:
        read_settings(AlertSettings)
    assert str(refusal.value).startswith(sentence)
    assert "secret" not in str(refusal.value)
