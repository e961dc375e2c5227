"""Alerts link to the page where it is known where that is."""

import pytest

from db.environment import SettingsError, read_settings
from tests.watch.conftest import Configure, Receiver
from watch.channels import send, trial
from watch.settings import AlertSettings


def test_an_alert_links_to_the_page(webhook: Receiver, configure: Configure) -> None:
    send("webhook", trial())
    configure(PUBLIC_URL="https://paymaster.example.com/")
    send("webhook", trial())
    without, linked = webhook.accepted
    assert "url" not in without and "http" not in without["text"]
    assert linked["url"] == "https://paymaster.example.com/#alert-0"
    assert linked["text"].endswith(f" <{linked['url']}>") and linked["message"] == without["message"]


@pytest.mark.parametrize(
    "address", ["paymaster", "ftp://x", "javascript:alert(1)", "https://u:p@x", "http://[", "https://x?a"]
)
def test_what_is_no_address_is_refused(environment: None, configure: Configure, address: str) -> None:
    configure(PUBLIC_URL=address)
    with pytest.raises(SettingsError, match="PUBLIC_URL: is no address"):
        read_settings(AlertSettings)
