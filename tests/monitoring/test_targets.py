"""Targets are told at once, for so long as the bound allows, and no reason shows an address."""

from __future__ import annotations

import sys
import time

import pytest

from retailmart.errors import MissingExtra
from retailmart.monitoring.alerts import Notification
from retailmart.monitoring.targets import NotDelivered, send, tell_all
from retailmart.report import Alert
from tests.support.services.listener import Answer, Listener, closed_port

NOTE = Notification("shop", (Alert("held", "m", "mart m is held back: why", "Do this"),))


def test_jobs_run_at_once_and_end_in_time() -> None:
    """Many that hang cost no more than one; those that end are not held up by them."""
    started = time.monotonic()
    jobs = {f"slow {n}": lambda: time.sleep(30) for n in range(5)}
    failed = tell_all({**jobs, "good": lambda: None}, 0.3)
    assert time.monotonic() - started < 2
    assert failed == dict.fromkeys(jobs, "no answer within 0.3 s")


def test_a_web_address_gets_json(listener: Listener) -> None:
    """Slack and others show `text`; programs read the alerts."""
    send(f"{listener.url}/hook", NOTE.title, NOTE.to_dict(), 5)
    (heard,) = listener.heard
    assert heard.plain["opened"][0]["kind"] == "held"
    assert heard.plain["text"].splitlines() == [
        "retailmart shop: 1 alert (held)",
        "[held] mart m is held back: why",
        "  Do this",
    ]


def test_apprise_gets_all_else(listener: Listener) -> None:
    """A URL of Apprise is sent by it; what it can't send or does not know is told."""
    address = listener.url.removeprefix("http://")
    send(f"json://{address}/hook", NOTE.title, NOTE.to_dict(), 5)
    (heard,) = listener.heard
    assert heard.plain["title"] == "retailmart shop: 1 alert (held)"
    assert "mart m is held back: why" in heard.plain["message"]
    listener.answer = Answer.FAILS
    with pytest.raises(NotDelivered, match="did not take"):
        send(f"json://{address}/hook", NOTE.title, NOTE.to_dict(), 5)
    with pytest.raises(NotDelivered, match="does not know such a URL"):
        send("nothing://hidden", NOTE.title, NOTE.to_dict(), 5)


def test_apprise_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the reason names it."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(MissingExtra, match=r"\[alerts\]"):
        send("mailto://host.example", NOTE.title, NOTE.to_dict(), 5)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer.REDIRECTS, "it answered 302: it is at another address now"),
        (Answer.FAILS, "it answered 500"),
        (Answer.RESETS, "Connection reset by peer"),
        (None, "Connection refused"),
    ],
)
def test_reasons_hold_no_address(listener: Listener, answer: Answer | None, reason: str) -> None:
    """Why a target was not told, without the address that may be a secret."""
    listener.answer = answer or Answer.WELL
    url = listener.url if answer else f"http://127.0.0.1:{closed_port()}"
    for address in (f"{url}/hidden", "http://hid den/", "ftp://hidden"):
        failed = tell_all({"it": lambda at=address: send(at, "", NOTE.to_dict(), 5)}, 9)  # type: ignore[misc]
        assert "hidden" not in failed["it"]
        if address.startswith(url):
            assert failed["it"] == reason
