"""Verify marts: do engines make the same of the lake's data, and is it what lies there?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from socket import gethostname

from retailmart.database import translate_errors
from retailmart.engines import Engine
from retailmart.engines.registry import has_workers, open_engine
from retailmart.errors import MartNotBuilt, RetailmartError, SettingsError
from retailmart.feeds.load import LoadedFeed
from retailmart.lake import Lake, place_of
from retailmart.lake.layout import MONTH, mart_table, quarantine_table, raw_table
from retailmart.lake.places import Place
from retailmart.ledger.values import definition_of
from retailmart.marts.definitions import fingerprints
from retailmart.operations.verify.compare import LAKE, compare, side_of
from retailmart.operations.verify.pin import Pinned, pin
from retailmart.operations.verify.rebuild import Plan, plan, rebuild, scratch_lake
from retailmart.operations.verify.reparse import (
    Delivery,
    deliveries,
    parse_again,
    sides_of_raw,
    sides_of_refused,
)
from retailmart.operations.work import expect_moment
from retailmart.project import Project
from retailmart.project.settings import engines_named
from retailmart.report import Comparison, Progress, Silent, VerifyReport
from retailmart.session import Session, store_at
from retailmart.tables import TableState

# All sides are digested by one engine, whichever wrote them.
_JUDGE = "duckdb"
# More runs than a ledger has.
_ALL = 1_000_000

Tell = Callable[[str], None]


def verify(
    project: Project,
    engines: Sequence[str],
    runs: int | None,
    as_of: datetime | None,
    progress: Progress | None,
) -> VerifyReport:
    """Rebuild the marts on each engine, parse the files of the last `runs` runs, and compare.

    All of it is compared between the engines and with what the lake holds. `runs` may be None for
    all runs; `as_of` None is the moment that each of the lake's marts was built for. Raises
    SettingsError for an unknown engine, MartNotBuilt before the first run, ProjectBusy while one
    commits or another verify is at work.
    """
    names = engines_named(engines, "engines")
    expect_moment(as_of)
    moment = as_of.astimezone(UTC) if as_of else None
    with (
        Session.open(project, progress or Silent()) as session,
        scratch_lake(session.private) as folder,
        ExitStack() as stack,
    ):
        work = _Verification(session, folder, stack, names)
        return work.report(moment, _ALL if runs is None else runs)


@dataclass(frozen=True)
class _Made:
    """What one engine made: marts by name, and of each delivery what `load` says.

    `failed` are the marts that it can't build, with reasons.
    """

    marts: Mapping[str, TableState]
    failed: Mapping[str, str]
    parsed: Sequence[LoadedFeed]


class _Verification:
    """One verification, in a folder of its own."""

    def __init__(
        self, session: Session, folder: Path, stack: ExitStack, engines: Sequence[str]
    ) -> None:
        self.session = session
        self.folder = folder
        self.copies = folder / "deliveries"
        self.stack = stack
        # Of a lake in a bucket, files are fetched into this folder: a run that fetches the same
        # ones into its own is not met.
        store = store_at(session.project, session.project.settings.lake)
        self.lake = Lake(place_of(store, folder / "lake"))
        self.places = {name: self._place(name) for name in engines}
        with session.step("open") as progress:
            self.judge, _ = self._open(_JUDGE)
            # All of them first: what can't be opened is told before any work is done.
            self.engines = {name: self._open(name) for name in engines}
            for name in engines:
                if has_workers(session.project.settings.model_copy(update={"engine": name})):
                    progress(f"{name} computes in its tasks, as with driver_reads: 0MB")
        self.skipped: dict[str, str] = {}

    def report(self, as_of: datetime | None, runs: int) -> VerifyReport:
        """Pin, build, parse, compare."""
        session = self.session
        with session.step("pin"):
            pinned = self._pinned(runs)
            work = self._planned(pinned, as_of)
            deliveries = self._deliveries(pinned)
        made = {name: self._made(name, pinned, work, deliveries) for name in self.engines}
        with session.step("compare") as progress:
            marts = tuple(self._compare_marts(pinned, work, made, progress))
            files = tuple(self._compare_deliveries(pinned, deliveries, made, progress))
        return VerifyReport(
            tuple(self.engines),
            marts,
            files,
            self.skipped,
            {**work.unavailable, **_failed(made)},
            {name: round(took, 3) for name, took in session.seconds.items()},
        )

    def _open(self, name: str) -> tuple[Engine, ExitStack]:
        """An engine, and what closes it before the end."""
        project = self.session.project
        self.lake.place.workspace.mkdir(parents=True, exist_ok=True)
        # A small project's marts would else be built in this process on either engine, and the
        # comparison would say nothing of Spark.
        spark = project.settings.spark.model_copy(update={"driver_reads": "0MB"})
        settings = project.settings.model_copy(update={"engine": name, "spark": spark})
        with _on(name):
            places = [self.lake.place, *self.places.values()]
            engine = open_engine(settings, places, self.folder)
            closing = self.stack.enter_context(ExitStack())
            closing.callback(engine.close)
            engine.add_functions(project.functions)
            engine.set_variables(project.variables)
        return engine, closing

    def _place(self, name: str) -> Place:
        """Where an engine writes: all of its machines see it, and in the end it is gone.

        Its name is of this machine and folder, so that what a killed command left there can go.
        """
        lake, whose = self.lake.place, f"{gethostname()} {self.folder}"
        beside = f".verify/{sha256(whose.encode()).hexdigest()[:12]}/{name}"
        lake.forget(lake.workspace / beside)
        self.stack.callback(lake.forget, lake.workspace / beside)
        return lake.beside(beside, self.folder / name)

    def _pinned(self, runs: int) -> Pinned:
        if not self.lake.place.tables():  # nor may there be a ledger, and looking would make one
            raise MartNotBuilt("no mart is built yet", "Build them with: retailmart run")
        session = self.session
        with translate_errors():
            session.ledger.migrate()
            return pin(self.lake, session.ledger, session.project, runs)

    def _planned(self, pinned: Pinned, as_of: datetime | None) -> Plan:
        session = self.session
        today = fingerprints(session.project, as_of or pinned.last_moment)
        definitions = {name: definition_of(said) for name, said in today.items()}
        return plan(self.judge, self.lake, session.project, pinned, definitions, as_of)

    def _deliveries(self, pinned: Pinned) -> list[Delivery]:
        session = self.session
        self.copies.mkdir()
        with translate_errors():
            found = deliveries(
                self.judge,
                session.ledger,
                session.archive,
                session.project,
                pinned,
                self.copies,
                self.skipped,
            )
            return list(found)

    def _made(self, name: str, pinned: Pinned, work: Plan, deliveries: Sequence[Delivery]) -> _Made:
        """Let one engine do all its work, and close it: the next needs the memory."""
        engine, closing = self.engines[name]
        place = self.places[name]
        with self.session.step(name) as progress, _on(name), closing:
            marts, failed = rebuild(engine, place, work, progress)
            parsed = []
            for number, delivery in enumerate(deliveries):
                progress(f"files of run {delivery.run_id}, {delivery.feed.name}")
                below = f"deliveries/{number}"
                beside = place.beside(below, place.workspace / below)
                parsed.append(parse_again(engine, beside, pinned, delivery, self.copies))
        return _Made(marts, failed, parsed)

    def _compare_marts(
        self, pinned: Pinned, work: Plan, made: Mapping[str, _Made], progress: Tell
    ) -> Iterator[Comparison]:
        failed = _failed(made)
        for mart in work.order:
            if mart.name in failed:
                continue
            progress(mart.name)
            sides = (
                {} if mart.name in work.left_out else {LAKE: pinned.tables[mart_table(mart.name)]}
            )
            sides |= {name: one.marts[mart.name] for name, one in made.items()}
            found = compare(
                self.judge,
                mart.name,
                [side_of(self.judge, name, state) for name, state in sides.items()],
                mart.key,
                mart.month,
            )
            left_out = work.left_out.get(mart.name)
            yield replace(found, as_of=work.moments[mart.name], left_out=left_out)

    def _compare_deliveries(
        self,
        pinned: Pinned,
        deliveries: Sequence[Delivery],
        made: Mapping[str, _Made],
        progress: Tell,
    ) -> Iterator[tuple[int, Comparison]]:
        for number, delivery in enumerate(deliveries):
            feed = delivery.feed
            progress(f"files of run {delivery.run_id}, {feed.name}")
            parsed = {name: one.parsed[number] for name, one in made.items()}
            month = MONTH if feed.month else None
            raw = sides_of_raw(self.judge, self.lake, pinned, delivery, parsed)
            yield delivery.run_id, compare(self.judge, raw_table(feed.name), raw, (), month)
            refused = sides_of_refused(self.judge, self.lake, pinned, delivery, parsed)
            key = ("file_id", "line")
            table = quarantine_table(feed.name)
            yield delivery.run_id, compare(self.judge, table, refused, key, None)


def _failed(made: Mapping[str, _Made]) -> dict[str, str]:
    """The marts that no engine can build. Raises RetailmartError if some engines can."""
    failed: dict[str, str] = {}
    for engine, one in made.items():
        for name, why in one.failed.items():
            if others := [other for other, by in made.items() if name in by.marts]:
                raise RetailmartError(f"{engine}: {name}: {why}; {others[0]} builds it")
            failed.setdefault(name, why)
    return failed


@contextmanager
def _on(engine: str) -> Iterator[None]:
    """Tell whose error it is."""
    try:
        yield
    except SettingsError:
        raise
    except RetailmartError as error:
        raise type(error)(f"{engine}: {error.message}", error.hint) from error
