"""The report: one HTML file of what needs a person, what a run did, and what marts hold.

Nothing but the file is written. It has no script and no address outside it. Charts are what marts'
headers say (`-- chart:`), or chosen from their columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retailmart.errors import MartNotBuilt, ProjectBusy, RetailmartError
from retailmart.operations.report.drawing import draw, expect_library
from retailmart.operations.report.figures import Figure, Page, pages_of, text_of
from retailmart.operations.report.person import notes_of, refused_money
from retailmart.operations.run_status import RunStatus, run_status
from retailmart.operations.status import Reason, Status, status
from retailmart.project import Project
from retailmart.project.addresses import veiled
from retailmart.project.chart import ChartKind
from retailmart.report import RunReport, number_of

FOLDER = "reports"
_NAME = "report.html"
_LISTED = 20
_FILES = 12
# So often is it tried to see all of one moment.
_TIMES = 5


@dataclass(frozen=True)
class WrittenReport:
    """Where the report is, its size in bytes, its pages, and how much needs a person."""

    path: str
    size: int
    pages: tuple[str, ...]
    needs_a_person: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Whole:
    """All that the page shows; `next` says what to do in a project without marts."""

    title: str
    subtitle: str
    todo: tuple[Reason, ...]
    next: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    happened: tuple[Figure, ...]
    pages: tuple[Page, ...]


def write_report(project: Project, to: Path | None = None) -> WrittenReport:
    """Write the report, by default to reports/report.html of the project.

    Raises MissingExtra without the extra `report`, ProjectBusy while a run commits for long, and
    RetailmartError if the file cannot be written.
    """
    expect_library()
    target = to or project.folder / FOLDER / _NAME
    whole = _collect(project)
    content = veiled(_render(whole)).encode("utf-8", "replace")
    _put(target, content)
    titles = tuple(page.title for page in whole.pages)
    return WrittenReport(str(target), len(content), titles, len(whole.todo))


def write_after(project: Project, report: RunReport) -> str | None:
    """After a run that did something: a report of its own if the settings ask for it.

    The run is done, so nothing here fails it: what went wrong is the text that is returned.
    """
    wanted = project.settings.report
    if wanted.write != "always" or not report.batches:
        return None
    folder = project.folder / FOLDER
    try:
        written = write_report(project, folder / f"run-{report.run_id:06d}.html")
        for old in sorted(folder.glob("run-*.html"))[: -wanted.keep]:
            old.unlink(missing_ok=True)
    except Exception as error:  # whatever it is, the run is done and right
        return f"not written: {error}"
    return written.path


def _put(target: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RetailmartError(
            f"{target} can't be written: {error.strerror or error}",
            "Name another file: retailmart report --to FILE",
        ) from error


def _collect(project: Project) -> _Whole:
    """All of one moment: read again if a run began or ended meanwhile."""
    found = status(project)
    for _ in range(_TIMES):
        whole = _of_moment(project, found)
        before, found = found, status(project)
        if (found.runs, found.open_batch) == (before.runs, before.open_batch):
            return whole
    raise ProjectBusy(
        "runs begin and end while the report is written",
        "Have it written by each run: report: always in retailmart.yml; or try again later",
    )


def _of_moment(project: Project, found: Status) -> _Whole:
    run = _last_run(project, found)
    advice: tuple[str, ...] = ()
    try:
        pages = pages_of(project)
    except MartNotBuilt:
        pages = ()
        advice = (
            "Put the shop's files into landing, then type: retailmart run",
            *(f"Expected: {line}" for line in found.expected),
        )
    name = project.folder.resolve().name
    subtitle = f"As of {run.run.as_of[:16].replace('T', ' ')} UTC" if run else "No run yet"
    return _Whole(
        name,
        subtitle,
        (
            *_for_a_person(found, run, pages),
            *refused_money(project),
            *(notes_of(project, run.run.run_id) if run else ()),
        ),
        advice,
        tuple(_facts(run)) if run else (),
        tuple(_happened(run)) if run else (),
        pages,
    )


def _last_run(project: Project, found: Status) -> RunStatus | None:
    """The newest run that brought something, else the newest."""
    brought = [run for run in found.runs if run.files or run.state == "failed"]
    chosen = next(iter(brought or found.runs), None)
    return run_status(project, chosen.run_id) if chosen else None


def _for_a_person(
    found: Status, run: RunStatus | None, pages: tuple[Page, ...]
) -> Iterator[Reason]:
    yield from found.health.reasons
    for held in found.held:
        yield Reason(f"{held.mart}: {held.message}", held.hint or "")
    for table, why in found.unreadable.items():
        yield Reason(f"table {table}: {why}", "")
    for path, reason in list(found.refused.files.items())[:_LISTED]:
        yield Reason(f"{path}: {reason or 'refused'}", "")
    if len(found.refused.files) > _LISTED:
        more = len(found.refused.files) - _LISTED
        yield Reason(f"{more:,} more refused files", "See: retailmart quarantine list")
    for path, rows in list(found.nothing_loaded.items())[:_LISTED]:
        yield Reason(
            f"{path}: all of its {number_of(rows, 'row')} are refused",
            f"See: retailmart quarantine show {path}",
        )
    if found.runs:
        for line in found.expected:
            yield Reason(f"not come yet: {line}", "")
    for batch in run.batches if run else ():
        for one in batch.differences:
            counted = f"{one.rows:+,} {'row' if abs(one.rows) == 1 else 'rows'}"
            what = "corrected" if batch.undoes is None else "taken back"
            yield Reason(
                f"{text_of(one.path)} was {what}: {counted}, {one.amount:+,f}",
                "Its months have other figures now: tell those who have the earlier ones",
            )
    for page in pages:
        for figure in page.figures:
            if figure.error:
                yield Reason(figure.error, "Correct `-- chart:` in the mart's header")


def _facts(run: RunStatus) -> Iterator[tuple[str, str]]:
    line = run.run
    yield "Run", f"{line.run_id}, {line.state}"
    yield "Began", f"{line.started_at[:19].replace('T', ' ')} UTC"
    if line.seconds is not None:
        yield "Took", f"{line.seconds:.1f} s"
    yield "Files", f"{sum(line.files.values()):,}"
    yield "Rows loaded", f"{line.loaded:,}"
    yield "Rows refused", f"{line.quarantined:,}"
    for feed, amount in line.money.items():
        yield f"Money of {feed}", text_of(amount)


def _happened(run: RunStatus) -> Iterator[Figure]:
    steps: dict[str, float] = {}
    for step in run.steps:
        steps[step.step] = steps.get(step.step, 0.0) + step.seconds
    rows = tuple((name, f"{seconds:.2f}") for name, seconds in steps.items())
    yield Figure("Seconds by step", "", ChartKind.TABLE, ("step", "seconds"), rows, (False, True))
    # What was refused first: it is what people look for.
    files = sorted(
        run.files, key=lambda file: (file.state != "refused", not file.quarantined, file.path)
    )
    yield Figure(
        "Files",
        "",
        ChartKind.TABLE,
        ("file", "state", "rows", "refused", "money"),
        tuple(
            (
                text_of(file.path),
                file.state,
                "" if file.loaded is None else f"{file.loaded:,}",
                "" if file.quarantined is None else f"{file.quarantined:,}",
                "" if file.amount is None else text_of(file.amount),
            )
            for file in files[:_FILES]
        ),
        (False, False, True, True, True),
        note=f"{_FILES} of {len(files):,} files" if len(files) > _FILES else None,
    )


def _render(whole: _Whole) -> str:
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    pages = [
        {
            "title": page.title,
            # The library escapes what it writes into the SVG.
            "figures": [
                (figure, Markup(svg) if (svg := draw(figure)) else None)  # noqa: S704
                for figure in page.figures
            ],
        }
        for page in whole.pages
    ]
    return template.render(page={**vars(whole), "pages": pages})
