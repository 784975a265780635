"""Whatever is delivered, and however runs divide it: the marts are those of what stands in the end.

What stands is told by two rules. A name stands for the last loadable content that came under it.
A content counts once, under however many names it stands.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retailmart import MartNotBuilt
from tests.support.amount import tries
from tests.support.judge import COLUMNS, PUBLISHED, expected_marts, in_cents, is_refused
from tests.support.shop import AS_OF, HEADER, Shop, sale

_NAMES = ("sales_a.csv", "sales_b.csv", "sales_c.csv", "north/sales_a.csv")

Content = tuple[str, ...]


@pytest.fixture
def marts() -> None:
    """All of them: the judge makes each."""


@dataclass(frozen=True)
class Delivery:
    """A file put into landing, and whether a run follows at once."""

    name: str
    lines: Content
    run: bool = False

    @property
    def bytes(self) -> bytes:
        return ("\n".join(self.lines) + "\n").encode()


# ties, half cents of incentive, returns, unknown people and stores, months apart, till errors
_ROWS = st.one_of(
    st.builds(
        sale,
        customer=st.sampled_from([1, 2, 3, 77]),
        store=st.sampled_from([1, 1, 2, 7]),
        day=st.sampled_from(
            ["2024-01-31", "2024-02-01", "2024-02-29", "2024-03-31", "2024-04-01", "2023-12-31"]
        ),
        person=st.sampled_from([1, 2, 3, 55]),
        price=st.sampled_from(["10.00", "10.50", "0.50", "33.35", "0.01"]),
        quantity=st.just(1),
    ),
    st.builds(
        sale,
        customer=st.sampled_from([1, 2, 3]),
        day=st.sampled_from(["2024-01-31", "2024-02-29", "2024-03-31"]),
        person=st.sampled_from([1, 2]),
        price=st.just("10.50"),
        quantity=st.sampled_from([-1, -2]),
        total=st.sampled_from(["-10.50", "-21.00", "-21.01"]),
    ),
    st.sampled_from(
        [
            ",1,tea,2024-01-15,1,10.00,1,10.00",
            "1,1,tea,2024-02-31,1,10.00,1,10.00",
            "1,1,tea,2024-01-15,1,10.00,1,10.005",
            "1,1,tea",
        ]
    ),
)
_FURTHER = HEADER + ",payment_mode"
_REFUSED: tuple[Content, ...] = ((HEADER,), (HEADER.removesuffix(",total_cost"), "1,1,tea"))


def _contents() -> st.SearchStrategy[Content]:
    plain = st.lists(_ROWS, min_size=1, max_size=6).map(lambda rows: (HEADER, *rows))
    extra = st.builds(
        lambda rows, mode: (_FURTHER, *(f"{row},{mode}" for row in rows)),
        st.lists(_ROWS, min_size=1, max_size=3),
        st.sampled_from(["UPI", '"a ""b"", c"']),
    )
    return st.one_of(plain, plain, extra)


@st.composite
def _histories(draw: st.DrawFn) -> list[Delivery]:
    """Deliveries out of a few contents, so that names and contents keep coming back."""
    pool = draw(st.lists(_contents(), min_size=2, max_size=4, unique=True))
    one = st.builds(
        Delivery,
        name=st.sampled_from(_NAMES),
        lines=st.sampled_from([*pool, *pool, *_REFUSED]),
        run=st.booleans(),
    )
    return draw(st.lists(one, min_size=3, max_size=6))


@settings(
    max_examples=tries(4, 40),
    deadline=None,
    phases=[Phase.generate],  # histories are short; to shrink one would take minutes of runs
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # only ever copied from
)
@given(history=_histories())
def test_any_history_in_any_runs_ends_in_the_marts_of_what_stands(
    shop: Shop, history: Sequence[Delivery]
) -> None:
    """New, corrected, repeated and refused files, however split over runs, end as judged."""
    _assert_ends_as_judged(shop, history)


@pytest.mark.parametrize("runs", [(0, 0, 0, 0), (1, 1, 0, 0), (1, 1, 1, 0)])
def test_corrections_and_copies_in_any_runs(shop: Shop, runs: Sequence[int]) -> None:
    """A second file of the month, its correction and a copy of the first end alike in any split."""
    january = (HEADER, sale(person=1, price="50.50"), sale(person=2, price="50.50"))
    february = (HEADER, sale(day="2024-02-01", price="10.50"), sale(customer=2, person=2))
    corrected = (HEADER, sale(day="2024-03-31", price="10.50"))
    history = [
        Delivery("sales_a.csv", january),
        Delivery("sales_b.csv", february),
        Delivery("sales_b.csv", corrected),
        Delivery("sales_c.csv", january),
    ]
    _assert_ends_as_judged(shop, _divided(history, runs))


@pytest.mark.parametrize("runs", [(0, 1, 0), (1, 1, 0)])
def test_a_copy_counts_once_its_original_is_corrected(shop: Shop, runs: Sequence[int]) -> None:
    """Monday's sales sent under Tuesday's name too: correcting Tuesday must not lose Monday."""
    monday, tuesday = (HEADER, sale(price="10.50")), (HEADER, sale(price="20.50"))
    history = [
        Delivery("sales_tuesday.csv", monday),
        Delivery("sales_monday.csv", monday),
        Delivery("sales_tuesday.csv", tuesday),
    ]
    _assert_ends_as_judged(shop, _divided(history, runs))


@pytest.mark.parametrize("runs", [(0, 1, 0), (1, 1, 0)])
def test_a_correction_to_what_another_file_says_removes_the_old_rows(
    shop: Shop, runs: Sequence[int]
) -> None:
    """A name that now repeats another file's content no longer stands for its own old rows."""
    first, second = (HEADER, sale(price="10.50")), (HEADER, sale(price="20.50"))
    history = [
        Delivery("sales_a.csv", first),
        Delivery("sales_b.csv", second),
        Delivery("sales_a.csv", second),
    ]
    _assert_ends_as_judged(shop, _divided(history, runs))


def test_content_moved_to_another_name_is_counted_once(shop: Shop) -> None:
    """In one run a name takes another's content while its old content comes under a third name."""
    first, second = (HEADER, sale(price="10.50")), (HEADER, sale(price="20.50"))
    history = [
        Delivery("sales_a.csv", first),
        Delivery("sales_b.csv", second, run=True),
        Delivery("sales_a.csv", second),
        Delivery("sales_c.csv", first),
    ]
    _assert_ends_as_judged(shop, history)


def test_two_names_can_swap_their_contents(shop: Shop) -> None:
    """Two files sent under each other's name and corrected in one run count once each."""
    first, second = (HEADER, sale(price="10.50")), (HEADER, sale(customer=2, price="20.50"))
    history = [
        Delivery("sales_a.csv", first),
        Delivery("sales_b.csv", second, run=True),
        Delivery("sales_a.csv", second),
        Delivery("sales_b.csv", first),
    ]
    _assert_ends_as_judged(shop, history)


@pytest.mark.parametrize("runs", [(0, 0), (1, 0)])
def test_a_first_delivery_of_bad_rows_only_is_no_obstacle(shop: Shop, runs: Sequence[int]) -> None:
    """A shop whose first file is quarantined to the last row goes on with its second one."""
    bad, good = (HEADER, ",1,tea,2024-01-15,1,10.00,1,10.00"), (HEADER, sale())
    history = [Delivery("sales_a.csv", bad), Delivery("sales_b.csv", good)]
    _assert_ends_as_judged(shop, _divided(history, runs))


def test_a_correction_of_bad_rows_only_empties_the_marts(shop: Shop) -> None:
    """When the only file's correction is quarantined to the last row, nothing is left to show."""
    good, bad = (HEADER, sale(), sale(day="2024-02-01")), (HEADER, "1,1,tea,2024-02-31,1,1,1,1")
    history = [Delivery("sales_a.csv", good, run=True), Delivery("sales_a.csv", bad)]
    _assert_ends_as_judged(shop, history)


def test_a_month_that_ends_without_deliveries_still_moves_the_decline(shop: Shop) -> None:
    """Once as_of passes a month's end, declining customers tell of it though nothing landed."""
    lines = (HEADER, sale(day="2024-02-10", price="30.00"), sale(day="2024-03-10", price="20.00"))
    history = [Delivery("sales_a.csv", lines, run=True)]
    with tempfile.TemporaryDirectory() as folder:
        ours = _lived_through(shop, Path(folder), history, datetime(2024, 3, 31, tzinfo=UTC))
        ours.run(AS_OF)
        _assert_marts(ours, _standing(history, Path(folder)))


def _divided(history: Iterable[Delivery], runs: Iterable[int]) -> list[Delivery]:
    return [Delivery(d.name, d.lines, bool(run)) for d, run in zip(history, runs, strict=True)]


def _assert_ends_as_judged(shop: Shop, history: Sequence[Delivery]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours = _lived_through(shop, Path(folder), history, AS_OF)
        _assert_marts(ours, _standing(history, Path(folder)))


def _lived_through(shop: Shop, folder: Path, history: Iterable[Delivery], as_of: datetime) -> Shop:
    """A copy of the shop after all deliveries and runs, nothing left in landing."""
    ours = Shop(folder / "shop")
    shutil.copytree(shop.folder, ours.folder)
    for delivery in history:
        if (ours.folder / "landing" / delivery.name).exists():
            ours.run(as_of)  # what is overwritten before any run was never delivered
        ours.drop(delivery.name, delivery.bytes)
        if delivery.run:
            ours.run(as_of)
    ours.run(as_of)
    return ours


def _standing(history: Iterable[Delivery], folder: Path) -> list[Path]:
    """The files that stand in the end, one a name."""
    standing: dict[str, Path] = {}
    for number, delivery in enumerate(history):
        path = folder / "standing" / str(number) / Path(delivery.name).name
        path.parent.mkdir(parents=True)
        path.write_bytes(delivery.bytes)
        if not is_refused(path):
            standing[delivery.name] = path
    return list(standing.values())


def _assert_marts(shop: Shop, standing: Sequence[Path]) -> None:
    expected = expected_marts(standing, shop.folder / "shop.db", AS_OF)
    assert list((shop.folder / "landing").rglob("*.csv")) == []
    try:
        found = {mart: Counter(shop.mart(mart, ", ".join(COLUMNS[mart]))) for mart in COLUMNS}
    except MartNotBuilt:
        assert not any(expected.values())
        return
    assert found == expected
    for mart in PUBLISHED:
        rows = shop.published(mart, ", ".join(COLUMNS[mart]))
        assert in_cents(mart, rows) == in_cents(mart, expected[mart].elements())
