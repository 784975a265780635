"""`retailmart quarantine`: look at refused rows, take them out to be repaired, bring them back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    SetOption,
    exits,
    open_at,
    print_json,
    say,
)
from retailmart.errors import RetailmartError
from retailmart.report import number_of

if TYPE_CHECKING:
    from retailmart.api import OpenProject
    from retailmart.feeds.quarantine import Item, Quarantine
    from retailmart.ledger import Ledger
    from retailmart.ledger.values import LedgerFile
    from retailmart.project.feed import Feed

app = typer.Typer(
    help="Look at refused rows; export them to be repaired, and replay them.", no_args_is_help=True
)
AllOption = Annotated[bool, typer.Option("--all", help="Closed rows too, with what closed them.")]
FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Its path below landing, or name.")
]


@app.command("list", epilog=exits())
def quarantine_list(
    project: ProjectOption = Path(),
    show_all: AllOption = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """Files with refused rows that are open, and refused files not delivered well since."""
    from retailmart.console import one_line

    with _opened(project, settings) as desk:
        counts: Counter[tuple[str, ...]] = Counter()
        closed = 0
        for feed in desk.opened.project.feeds:
            for item in desk.quarantine(feed).items(texts=False):
                closed += not item.needs_work
                if item.needs_work or show_all:
                    counts[item.file, item.row.rule, *_fate(item, show_all)] += 1
        refused = list(desk.refused_files())
    names = ("file", "rule", "state", "by")
    lines = [
        {**dict(zip(names, key, strict=False)), "rows": rows}
        for key, rows in sorted(counts.items())
    ]
    if output is Output.JSON:
        files = [{"file": file.path, "message": file.message} for file in refused]
        print_json({"rows": lines, "files": files, "closed": closed})
        return
    for line in lines:
        fate = _translate_errors(line.get("state"), line.get("by"))
        rows = "row " if line["rows"] == 1 else "rows"
        told = f"{line['rows']:>8,} {rows}  {line['rule']}  {line['file']}{fate}"
        print(one_line(told))
    for file in refused:
        print(one_line(f"    file refused  {file.path} {file.message}"))
    if not lines and not refused:
        print(f"no refused rows or files{' are open' if closed else ''}")
    _say_closed(closed, show_all)


@app.command("show", epilog=exits())
def quarantine_show(
    file: FileArgument,
    project: ProjectOption = Path(),
    show_all: AllOption = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """The open refused rows of a file, with line, reason and raw text; or why it was refused."""
    from retailmart.console import visible

    with _opened(project, settings) as desk:
        found, counted = desk.delivered(file)
        items = list(desk.items_of(counted)) if counted else []
    shown = [item for item in items if item.needs_work or show_all]
    closed = sum(not item.needs_work for item in items)
    if output is Output.JSON:
        rows = [_as_json(item) for item in shown]
        print_json({"file": found.path, "message": found.message, "rows": rows, "closed": closed})
        return
    if found.message:
        print(visible(f"{found.path} {found.message}"))
    for item in shown:
        fate = _translate_errors(*_fate(item, show_all)) if show_all else ""
        row = item.row
        print(visible(f"line {row.line}: {row.message}{fate}\n    {row.raw}"))
    if not shown and not found.message:
        print(visible(f"{found.path} has no refused rows{' that are open' if closed else ''}"))
    _say_closed(closed, show_all)


@app.command("export", epilog=exits())
def quarantine_export(
    to: Annotated[Path, typer.Option("--to", metavar="SHEET", help="A new .xlsx or .csv file.")],
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="One file's rows; default all.")
    ] = None,
    feed: Annotated[
        str | None, typer.Option("--feed", metavar="NAME", help="Where there are several feeds.")
    ] = None,
    project: ProjectOption = Path(),
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write open refused rows as a sheet to repair, with the reason of each."""
    from retailmart.feeds.replay import export

    with _opened(project, settings) as desk:
        counted = desk.delivered(file)[1] if file else None
        if file and counted is None:
            raise RetailmartError(
                f"no delivery of {file} is counted, so none of its rows can be brought back",
                f"See why: retailmart quarantine show {file}",
            )
        chosen = desk.feed(counted.feed if counted else feed)
        quarantine = desk.quarantine(chosen.name)
        file_id = counted.file_id if counted else None
        count = export(to, chosen, lambda: quarantine.items(file_id))
    if count:
        say(
            f"Wrote {number_of(count, 'row')} to {to}. Repair them there, keep the column _origin,"
            f" and then: retailmart quarantine replay {to}",
            unless=quiet,
        )
    else:
        say("No refused row is open, so nothing was written.", unless=quiet)


@app.command("replay", epilog=exits())
def quarantine_replay(
    sheet: Annotated[Path, typer.Argument(metavar="SHEET", help="What was exported, repaired.")],
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Put repaired rows into landing; the next run counts each of them once."""
    from retailmart.feeds.replay import drop_repaired, origins_in
    from retailmart.lake.layout import ORIGIN
    from retailmart.session import store_at
    from retailmart.sheets import read_sheet

    with _opened(project, settings) as desk:
        defined = desk.opened.project
        feeds = list(defined.feeds.values())
        found = read_sheet(sheet, ORIGIN, [feed.encoding for feed in feeds])
        feed = desk.feed_of(origins_in(found))
        landing = store_at(defined, defined.settings.landing)
        items = desk.quarantine(feed.name).items(texts=False)
        dropped = drop_repaired(landing, feeds, feed, found, items)
    if output is Output.JSON:
        print_json(vars(dropped))
    open_rows = number_of(dropped.left_out, "row")
    left = f" {open_rows} not filled in: still open." if dropped.left_out else ""
    rows = number_of(dropped.rows, "row")
    said = f"Put {rows} into landing as {dropped.path}.{left} Next: retailmart run"
    say(said, unless=quiet)


@dataclass(frozen=True)
class _Desk:
    """An open project with its ledger, as these commands look at it."""

    opened: OpenProject
    ledger: Ledger

    def quarantine(self, feed: str) -> Quarantine:
        from retailmart.feeds.quarantine import Quarantine

        return Quarantine(self.opened.quarantine(feed), self.ledger)

    def delivered(self, name: str) -> tuple[LedgerFile, LedgerFile | None]:
        """The newest delivery under a name, and the file that counts for it now."""
        newest = self.ledger.files.find(name)
        if newest is None:
            raise RetailmartError(
                f"no file {name!r} was ever delivered", "List them with: retailmart quarantine list"
            )
        standing = self.ledger.files.current(newest.path)
        return newest, self.ledger.files.counted_by_content(standing.sha256) if standing else None

    def items_of(self, file: LedgerFile) -> Iterator[Item]:
        yield from self.quarantine(str(file.feed)).items(file.file_id)

    def refused_files(self) -> Iterator[LedgerFile]:
        """Refused files under whose name nothing that could be read has come since."""
        from retailmart.ledger.values import FileState

        for file in self.ledger.files.in_state(FileState.REFUSED):
            standing = self.ledger.files.current(file.path)
            if standing is None or standing.file_id < file.file_id:
                yield file

    def feed(self, name: str | None) -> Feed:
        """The feed of this name; without one, the only one that has refused rows."""
        feeds = self.opened.project.feeds
        if name is not None and name in feeds:
            return feeds[name]
        known = ", ".join(feeds)
        if name is not None:
            raise RetailmartError(f"there is no feed {name!r}", f"Feeds are: {known}")
        refusing = [feed for feed in feeds if self.opened.quarantine(feed) is not None]
        if len(refusing) > 1:
            told = ", ".join(refusing)
            raise RetailmartError("a sheet holds the rows of one feed", f"Add --feed: {told}")
        return feeds[refusing[0]] if refusing else next(iter(feeds.values()))

    def feed_of(self, file_ids: set[int]) -> Feed:
        """The one feed of all these files."""
        names = {str(file.feed) for file in self.ledger.files.among(file_ids)}
        if len(names) > 1:
            raise RetailmartError(
                f"the sheet holds rows of several feeds: {', '.join(sorted(names))}",
                "Replay the rows of one feed at a time",
            )
        if not names:
            raise RetailmartError(
                "no row of the sheet has an _origin as it was exported",
                "Export anew: retailmart quarantine export",
            )
        return self.feed(names.pop())


@contextmanager
def _opened(project: Path, settings: list[str] | None) -> Iterator[_Desk]:
    opened = open_at(project, settings)
    with opened.ledger() as ledger:
        yield _Desk(opened, ledger)


def _fate(item: Item, show_all: bool) -> tuple[str, ...]:
    return (item.state.value, item.by or "") if show_all else ()


def _translate_errors(state: object = None, by: object = None) -> str:
    """What became of a row, where that is asked for."""
    return {
        "closed": f"  (closed: counted from {by})",
        "replaced": f"  (replaced: refused again in {by})",
        "left": "  (left with its file)",
    }.get(str(state), "")


def _say_closed(closed: int, show_all: bool) -> None:
    if closed and not show_all:
        print(f"{closed:>8,} {'row' if closed == 1 else 'rows'} closed; see them with --all")


def _as_json(item: Item) -> dict[str, Any]:
    row = item.row
    return {
        "line": row.line,
        "column": row.column,
        "rule": row.rule,
        "message": row.message,
        "raw": row.raw,
        "origin": f"{item.origin[0]}#{item.origin[1]}" if item.origin else None,
        "state": item.state.value,
        "by": item.by,
    }
