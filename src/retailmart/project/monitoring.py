"""What of the settings says who is told of runs: log, metrics, lineage, alerts and ping."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import time
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator

from retailmart.project.addresses import (
    KEPT,
    Reference,
    query_password,
    references,
    variable,
    without_password,
)
from retailmart.project.documents import Document
from retailmart.project.environment import Environment

AlertKind = Literal["failure", "refused", "quarantine", "late", "volume", "drift", "held"]
ALERT_KINDS: tuple[AlertKind, ...] = (
    *("failure", "refused", "quarantine", "late", "volume", "drift", "held"),
)
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SIZE = re.compile(r"(\d+)\s*(KB|MB|GB)", re.IGNORECASE)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
# Their URLs need hold no secret. Whatever else a target is, its URL is one.
_WEB = ("http", "https")
_OPEN_SCHEMES = (*_WEB, "json", "jsons", "xml", "xmls", "form", "forms", "mailto", "mailtos")
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def _clock(value: object) -> object:
    # YAML 1.1 reads 6:30 without quotes as a number of base 60.
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value // 60:02}:{value % 60:02}"
    return value


def _exact(value: object) -> object:
    return Decimal(str(value)) if isinstance(value, float) else value


ExactDecimal = Annotated[Decimal, BeforeValidator(_exact)]


def checked_target(url: str) -> str:
    """An address that is told something. ValueError if it holds a secret, or is none.

    The address is not repeated: whatever it is, it may be a secret.
    """
    where = "write ${secret:NAME} for it, and store it with: retailmart secrets set NAME"
    known = references(url)
    scheme, there, _ = url.partition("://")
    if not there and not (known and url.startswith("${")):
        raise ValueError("is no URL; write it as in https://HOST/PATH, or as ${secret:NAME}")
    if without_password(url)[1] is not None or query_password(url):
        raise ValueError(f"holds a password; {where}")
    if there and not known and scheme.lower() not in _OPEN_SCHEMES:
        raise ValueError(f"what such a URL holds is a secret; {where}")
    return url


def shown_target(url: str) -> str:
    """What people see of a target: no more of its URL than its scheme and its host."""
    if "://" not in url or url.startswith("${"):
        return url if all(_REFERENCE.fullmatch(part) for part in url.split()) else KEPT
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _WEB:
        return f"{scheme}://…"
    return f"{scheme}://{rest.rpartition('@')[2].partition('/')[0].partition('?')[0]}"


def complete_target(url: str, environment: Environment, ask: Callable[[str], str]) -> str:
    """A target's address with its references filled in, only to send. ValueError as `variable`."""

    def value(found: re.Match[str]) -> str:
        reference = Reference.parse(found[1])
        return ask(reference.name) if reference.is_secret else variable(reference.name, environment)

    return _REFERENCE.sub(value, url)


def checked_web(url: str) -> str:
    """A target that is asked by HTTP. ValueError for any other."""
    checked_target(url)
    if url.startswith("${"):
        return url
    try:
        parts = urlsplit(url)
        good = parts.scheme in _WEB and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise ValueError("is no address on the web; write it as in https://HOST/PATH")
    return url


class LogSettings(Document):
    """What a run writes to its log."""

    format: Literal["text", "json"] = Field(
        "text",
        description="text, or json: an object a line, in the file and on stderr; `--log-format`"
        " overrides it.",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least level that is written."
    )
    file: str | None = Field(
        None, description="A file that the log is also written to; its folder is created."
    )
    max_size: str = Field(
        "10MB", description="The size at which the file is renamed to FILE.1 and begun again."
    )
    keep: int = Field(5, ge=0, description="How many renamed files are kept; 0: never rename.")

    @field_validator("max_size")
    @classmethod
    def _is_size(cls, value: str) -> str:
        if not _SIZE.fullmatch(value.strip()):
            raise ValueError(f"{value!r} is no size; write it as in 10MB")
        return value

    @property
    def max_bytes(self) -> int:
        """`max_size` in bytes."""
        number, unit = re.findall(r"\d+|[A-Za-z]+", self.max_size)
        return int(number) * _UNITS[unit.upper()]


class MetricsSettings(Document):
    """Figures for Prometheus."""

    file: str | None = Field(
        None,
        description="A file for node_exporter's textfile collector, as in"
        " `/var/lib/node_exporter/retailmart.prom`; replaced after every run.",
    )

    @field_validator("file")
    @classmethod
    def _is_prom(cls, value: str | None) -> str | None:
        if value is not None and not value.endswith(".prom"):
            raise ValueError("the collector reads files whose names end in .prom")
        return value


class LineageSettings(Document):
    """OpenLineage events: what a run reads and writes, column by column."""

    file: str | None = Field(None, description="A file that events are appended to, one a line.")
    url: str | None = Field(
        None, description="A server that events are posted to, as in `http://HOST:5000`."
    )
    api_key: str | None = Field(
        None, description="What the server asks for, as in ${secret:NAME}; never written here."
    )
    namespace: str = Field("retailmart", min_length=1, description="The namespace of the job.")
    job: str | None = Field(
        None, min_length=1, description="The job's name; without it, that of the project's folder."
    )

    @field_validator("url")
    @classmethod
    def _is_web(cls, value: str | None) -> str | None:
        return None if value is None else checked_web(value)

    @field_validator("api_key", mode="before")
    @classmethod
    def _is_reference(cls, value: object) -> object:
        if value is None or (isinstance(value, str) and _REFERENCE.fullmatch(value)):
            return value
        raise ValueError(
            "holds a key; write ${secret:NAME}, and store it with: retailmart secrets set NAME"
        )


class QuarantineLimits(Document):
    """How much of a feed one run may refuse before somebody is told; without a limit, any."""

    rows: int | None = Field(None, ge=0, description="So many rows are still fine.")
    share: ExactDecimal | None = Field(
        None, ge=0, le=1, description="Such a share of the rows is still fine, as in 0.05."
    )
    money: ExactDecimal | None = Field(
        None, ge=0, description="So much money, of the feed's `balance`, is still fine."
    )


class Expected(Document):
    """When a feed's files are to be there."""

    by: Annotated[str | None, BeforeValidator(_clock)] = Field(
        None, description="The time of day by which the day's files are loaded, as in `06:30`."
    )
    days: tuple[Day, ...] = Field(DAYS, description="The days on which `by` holds.")
    zone: str = Field("UTC", description="The time zone of `by`, as in `Europe/Berlin`.")
    hours: int | None = Field(
        None, ge=1, description="The hours after which the newest files are too old."
    )

    @field_validator("by")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        if value is not None and not _TIME.fullmatch(value):
            raise ValueError(f"{value!r} is no time of day; write it as in 06:30")
        return value

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # few projects need it

        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone; write it as in Europe/Berlin") from None
        return value

    @property
    def clock(self) -> time | None:
        """`by` as a time."""
        if self.by is None:
            return None
        hour, _, minute = self.by.partition(":")
        return time(int(hour), int(minute))


class VolumeLimits(Document):
    """What amount of rows is usual: compared with the median of the same weekday."""

    below: ExactDecimal = Field(
        Decimal("0.5"), ge=0, description="Less than this part of the median is unusual."
    )
    above: ExactDecimal = Field(
        Decimal(2), ge=1, description="More than this multiple of the median is unusual."
    )
    weeks: int = Field(8, ge=2, description="How many weeks back the same weekday is looked at.")
    at_least: int = Field(
        3, ge=2, description="So many of these days must have rows, else nothing is compared."
    )


class AlertSettings(Document):
    """Who is told when something is not well: once, and again when it is over."""

    targets: tuple[str, ...] = Field(
        (),
        description="Where alerts go, as in `${secret:SLACK}`: a web address, which gets JSON, or"
        " a URL of Apprise (extra `alerts`) for e-mail, Slack and others.",
    )
    on: tuple[AlertKind, ...] = Field(ALERT_KINDS, description="What is worth an alert.")
    quarantine: QuarantineLimits = Field(
        default_factory=lambda: QuarantineLimits(share=Decimal("0.05")),
        description="How much may be refused; without it, 5 percent of the rows.",
    )
    expected: dict[str, Expected] = Field(
        default_factory=dict, description="When files are to be there, by feed."
    )
    volume: VolumeLimits = Field(
        default_factory=VolumeLimits, description="What amount of rows is usual."
    )

    @field_validator("targets")
    @classmethod
    def _are_targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for target in value:
            checked_target(target)
        return value


class PingSettings(Document):
    """A dead-man's switch, as healthchecks.io: it raises an alarm if no run comes at all."""

    url: str | None = Field(
        None,
        description="Asked after each run that went well, and with `/fail` after each other.",
    )

    @field_validator("url")
    @classmethod
    def _is_web(cls, value: str | None) -> str | None:
        return None if value is None else checked_web(value)


class MonitoringSettings(Document):
    """The sections of the settings that say who is told of runs."""

    log: LogSettings = Field(default_factory=LogSettings, description="What runs write to a log.")
    metrics: MetricsSettings = Field(
        default_factory=MetricsSettings, description="Figures for Prometheus, in a file."
    )
    lineage: LineageSettings = Field(
        default_factory=LineageSettings, description="OpenLineage events."
    )
    alerts: AlertSettings = Field(
        default_factory=AlertSettings, description="Who is told when something is not well."
    )
    ping: PingSettings = Field(
        default_factory=PingSettings, description="A dead-man's switch for runs that never come."
    )
    notify_within: float = Field(
        5.0,
        gt=0,
        le=300,
        description="The seconds that alerts, metrics, lineage and the ping may take in all after"
        " a run; what does not answer by then is given up.",
    )
