"""What is where in the lake: the paths of its tables, and the columns that are not the user's."""

from __future__ import annotations

from typing import Final

_RAW: Final = "raw/"
_QUARANTINE: Final = "quarantine/"
_MARTS: Final = "marts/"

# In a feed's raw table: the refused row that a row repairs, and its month. The key of its file is
# `tables.FILE_ID`, which engines give to each record that they read.
ORIGIN: Final = "_origin"
MONTH: Final = "_month"
# In a replayed file as it is read: the columns that the feed does not name, as one JSON object.
FURTHER: Final = "_further"
# In a source table with versions of its rows: the day each version begins, and the day it ends.
VALID_FROM: Final = "_valid_from"
VALID_TO: Final = "_valid_to"
# In a source table that is read by cursor: whether a file holds the base or changes to it.
LAYER: Final = "_layer"


def raw_table(name: str) -> str:
    """The path of the rows of a feed or source table."""
    return _RAW + name


def quarantine_table(feed: str) -> str:
    """The path of a feed's refused rows."""
    return _QUARANTINE + feed


def mart_table(name: str) -> str:
    """The path of a mart's rows."""
    return _MARTS + name


def raw_name(table: str) -> str:
    """The feed or source table whose rows are at the path `table`."""
    return table.removeprefix(_RAW)


def is_mart(table: str) -> bool:
    """Whether a path is that of a mart."""
    return table.startswith(_MARTS)


def mart_name(table: str) -> str:
    """The mart whose rows are at the path `table`."""
    return table.removeprefix(_MARTS)


def is_known(table: str) -> bool:
    """Whether a path is that of a table written here; others' are left alone."""
    return table.startswith((_RAW, _QUARANTINE, _MARTS))


def is_system_column(name: str) -> bool:
    """Whether a raw table's column describes the row and was not delivered with it."""
    return name.startswith("_")
