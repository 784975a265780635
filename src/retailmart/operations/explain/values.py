"""What an explanation holds, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from retailmart.report import plain


@dataclass(frozen=True)
class Delivery:
    """A delivered file: its path, the run that took it in, and what has become of it.

    `began` is when that run began: an ISO time in UTC. `rows` and `amount` are what the number has
    of it.
    """

    file_id: int
    file: str
    feed: str
    run: int
    began: str
    state: str
    rows: int = 0
    amount: Decimal | None = None


@dataclass(frozen=True)
class UsedRow:
    """A row that the number is made of: a delivered row, or the version of a source table's row.

    `table` is the feed or source table. `file`, `line` (from 1) and `raw` are the delivery's; for a
    row that was repaired, `origin` is where it was first refused. `values` are its columns; of a
    version of a row, `valid_from` and `valid_to` are its days.
    """

    table: str
    values: Mapping[str, Any]
    file: str | None = None
    line: int | None = None
    raw: str | None = None
    run: int | None = None
    origin: str | None = None
    valid_from: date | None = None
    valid_to: date | None = None


@dataclass(frozen=True)
class Addend:
    """An amount that was added up, and the numbers of its rows in `rows` of the explanation."""

    amount: Any
    rows: tuple[int, ...]


@dataclass(frozen=True)
class RefusedCell:
    """A refused row that would count in the number if it were repaired as far as it can be read.

    `amount` is the money that it would add; None if it adds none of its own, as a further line of
    an order whose total counts already.
    """

    feed: str
    file: str
    line: int
    column: str | None
    rule: str
    message: str
    raw: str
    amount: Decimal | None


@dataclass(frozen=True)
class Correction:
    """A file that once counted in these months and does not now, or was repaired; in one sentence.

    `by` is the file or run that did it.
    """

    file: str
    feed: str
    run: int
    state: str
    by: str | None
    message: str


@dataclass(frozen=True)
class Compared:
    """With which of the mart's rows a row is compared: those that share its `key` columns."""

    by: tuple[str, ...]
    key: Mapping[str, Any]
    count: int
    rows: tuple[Mapping[str, Any], ...]
    agrees: bool


@dataclass(frozen=True)
class Check:
    """How the number was made again: from its rows alone, and whether it came out.

    `adds` says what was done to the addends, `added` is what that gave, in this program with exact
    decimals. `rerun` is what the mart's query gave for the rows alone; None if it gave no row.
    `differing` are columns that came out otherwise: they depend on further rows.
    """

    adds: str | None = None
    addends: int = 0
    added: Any = None
    added_agrees: bool | None = None
    rerun: Any = None
    rerun_agrees: bool | None = None
    differing: tuple[str, ...] = ()
    agrees: bool = False


@dataclass(frozen=True)
class Explanation:
    """Why a number of a mart is what it is.

    `matches` is how many of the mart's rows have the key; for several, `number` is the column's sum
    over the first `explained` ones. `used` counts the rows by table, `rows` lists them up to a
    bound. `repaired` is what the number would be if the `refused` rows counted, `unreadable` counts
    refused rows of which nobody can tell. `limits` say how far the explanation goes where it does
    not go all the way.
    """

    mart: str
    about: str | None
    key: Mapping[str, Any]
    column: str
    number: Any
    row: Mapping[str, Any]
    matches: int
    explained: int
    as_of: datetime
    query: str
    variables: Mapping[str, Any]
    used: Mapping[str, int]
    rows: tuple[UsedRow, ...]
    addends: tuple[Addend, ...]
    deliveries: tuple[Delivery, ...]
    through: Mapping[str, int]
    compares: tuple[str, ...]
    compared: Compared | None
    refused: tuple[RefusedCell, ...]
    repaired: Any
    unreadable: int
    corrections: tuple[Correction, ...]
    check: Check
    limits: tuple[str, ...]

    @property
    def is_there(self) -> bool:
        """Whether the mart has a row of this key."""
        return self.matches > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values: decimals as exact texts, dates and times as ISO."""
        found: dict[str, Any] = plain(asdict(self))
        return found
