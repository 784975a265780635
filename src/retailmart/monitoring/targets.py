"""Tells targets outside: each in a thread of its own, and for so long as the bound allows.

What does not answer in time is given up. No reason that is shown repeats a target's address: it
may be a secret.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any

from retailmart.errors import MissingExtra, RetailmartError

# Of threads that may still wait for an answer when the program ends.
THREADS = "retailmart-monitoring"
_WEB = ("http://", "https://")


class NotDelivered(RetailmartError):
    """A target did not take what it was told."""


def tell_all(jobs: Mapping[str, Callable[[], None]], seconds: float) -> dict[str, str]:
    """Do all jobs at once, each the telling of a target; returns why those failed that did."""
    until = time.monotonic() + seconds
    told = [_Telling(name, job) for name, job in jobs.items()]
    for one in told:
        one.start()
    reasons = {one.name: one.reason(max(0.0, until - time.monotonic()), seconds) for one in told}
    return {name: reason for name, reason in reasons.items() if reason is not None}


class _Telling:
    """One job in its own thread, which the program does not wait for at its end."""

    def __init__(self, name: str, job: Callable[[], None]) -> None:
        self.name = name
        self._job = job
        self._failed: str | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._work, name=THREADS, daemon=True).start()

    def reason(self, wait: float, patience: float) -> str | None:
        """Why it failed; None if it did not."""
        if self._ended.wait(wait):
            return self._failed
        return f"no answer within {patience:.1f} s"

    def _work(self) -> None:
        try:
            self._job()
        except BaseException as error:
            self._failed = reason_of(error)
        finally:
            self._ended.set()


def reason_of(error: BaseException) -> str:
    """Why something failed, in words that hold no address."""
    if isinstance(error, RetailmartError):
        return error.one_line
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        inner = getattr(error, "reason", None)
        if isinstance(inner, BaseException):
            return reason_of(inner)
        return error.strerror or type(error).__name__
    if isinstance(error, HTTPException):
        return f"the answer is not HTTP ({type(error).__name__})"
    return f"failed with {type(error).__name__}"


def post(
    url: str,
    body: Mapping[str, Any] | str,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Post a JSON object, or a text. NotDelivered if the answer is not that all is well."""
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Nowhere(HTTPRedirectHandler):
        """Follows no redirect: what is posted would be lost on the way, and yet count as sent."""

        def redirect_request(self, *_: Any) -> None:
            return None

    content = body if isinstance(body, str) else json.dumps(body, default=str)
    kind = "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"
    sent = {"Content-Type": kind, "User-Agent": "retailmart", **(headers or {})}
    try:
        if not url.lower().startswith(_WEB):
            raise NotDelivered("it is no address on the web")
        request = Request(url, content.encode(), sent, method="POST")  # noqa: S310, checked above
        with build_opener(Nowhere).open(request, timeout=seconds) as answer:
            answer.read(1 << 16)
    except HTTPError as error:
        with error:
            elsewhere = ": it is at another address now" if 300 <= error.code < 400 else ""
            raise NotDelivered(f"it answered {error.code}{elsewhere}") from None
    except ValueError:
        raise NotDelivered("it is no address on the web") from None


def send(url: str, title: str, body: Mapping[str, Any], seconds: float) -> None:
    """Send a message to a target: as JSON to a web address, through Apprise to any other."""
    if url.lower().startswith(_WEB):
        post(url, body, seconds)
        return
    try:
        import apprise
    except ImportError:
        message = "alerts to other targets than web addresses need packages that are not installed"
        raise MissingExtra("alerts", message) from None
    import logging

    # It logs addresses; the caller reports what went wrong.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    sender = apprise.Apprise()
    if not sender.add(url):
        raise NotDelivered("Apprise does not know such a URL")
    text = str(body["text"]).removeprefix(f"{title}\n")
    if not sender.notify(title=title, body=text, body_format=apprise.NotifyFormat.TEXT):
        raise NotDelivered("it did not take the message")
