"""Errors a user can meet, each named for the fact and carrying its own exit code.

Every message says what happened and where; `hint` says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final


class RetailmartError(Exception):
    """A run or command could not do what was asked."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    @property
    def one_line(self) -> str:
        """What happened, and what to do next."""
        return f"{self.message}. {self.hint}" if self.hint else self.message


class SettingsError(RetailmartError):
    """The project's files say something that cannot be followed; all mistakes at once."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], hint: str | None = None) -> None:
        super().__init__("\n".join(problems), hint)
        self.problems = tuple(problems)


class MissingExtra(SettingsError):
    """Packages are not installed that `pip install .` leaves out; `extra` brings them.

    The name retailmart on a package index may be somebody else's, so the hint has none.
    """

    def __init__(self, extra: str, message: str, otherwise: str = "") -> None:
        hint = f"Install its extra in the checkout of retailmart: pip install '.[{extra}]'"
        super().__init__([message], f"{hint}; {otherwise}" if otherwise else hint)


class NotAProject(SettingsError):
    """The folder holds no retailmart.yml."""


class GateFailed(RetailmartError):
    """A quality gate was violated or a total does not balance; nothing was published."""

    exit_code = 3


class WrongMonth(GateFailed):
    """A mart gives a row that is not of the month it was computed from."""


class NotAllDone(RetailmartError):
    """The run is done, but for marts that stay at their last good state, or for a file's rows."""

    exit_code = 5


class ProjectBusy(RetailmartError):
    """Another run holds the project."""

    exit_code = 4


class LeaseLost(ProjectBusy):
    """This run was stopped for so long that another one got the lease; it may write no more."""


class Unavailable(RetailmartError):
    """A database or store broke off or did not answer; the same may work a moment later."""


class Stopped(RetailmartError):
    """Somebody asked the run to stop, as by SIGTERM; what it had begun, the next run finishes."""

    exit_code = 143


class Interrupted(Stopped):
    """Somebody at the keyboard asked the run to stop, by SIGINT."""

    exit_code = 130


class NewerLedger(RetailmartError):
    """The ledger was changed by a newer version of this program, which alone may go on with it."""


class DeliveryReplaced(RetailmartError):
    """A file of an unfinished batch was replaced: the batch is abandoned, the new file taken."""


class MartNotBuilt(RetailmartError):
    """The mart is known, but no run has built it yet."""


class KeyClash(RetailmartError):
    """A published table refuses a row, as when two have the same key."""


class TableRefused(RetailmartError):
    """The database does not accept a published table as it is; other tables are not affected."""

    def __init__(self, table: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.table = table


class EngineFailed(RetailmartError):
    """The engine itself failed, as on a full disk: whatever it was asked, it would have failed."""


class Shortage(EngineFailed):
    """The machine lacks something: room on a disk, memory, open files, or the right to write.

    `kind` is `disk`, `quota`, `inodes`, `memory`, `files`, `read-only`, `denied` or `large`.
    """

    def __init__(self, kind: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Shortage], tuple[str, str, str | None]]:
        return type(self), (self.kind, self.message, self.hint)


class NotComputed(RetailmartError):
    """A query can't be computed for a value that it meets, such as a sum of too many digits."""


class CsvBroken(RetailmartError):
    """A file that looked regular is not: the engine's strict CSV reader refused it."""


# Errors of the whole run, whichever mart was being worked on. A WrongMonth is one mart's, although
# it is a GateFailed.
OF_THE_RUN: Final = (
    Unavailable,
    ProjectBusy,
    GateFailed,
    SettingsError,
    EngineFailed,
    NewerLedger,
    DeliveryReplaced,
    Stopped,
)
