"""The report: what it shows is what marts hold, whatever their names, and it is one file alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from retailmart.api import open_project
from retailmart.errors import SettingsError
from retailmart.template import write_project
from tests.support.backends import shop_tables
from tests.support.services.chromium import dom_of, seconds_to_paint
from tests.support.shop import HEADER, Called, Shop, bare_project, keep_only, sale

HOSTILE = "<script>alert(1)</script>"
RTL = "\u202eמחיר"
LONG = "x" * 500


@dataclass
class Seen(HTMLParser):
    """Tables by title, and the tags and links of a page."""

    tables: dict[str, list[list[str]]] = field(default_factory=lambda: defaultdict(list))
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._title, self._cell = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, a row or a cell."""
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._title = dict(attrs).get("data-title") or ""
        elif tag == "tr":
            self.tables[self._title].append([])
        elif tag == "td":
            self.tables[self._title][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        if tag == "td":
            self._cell = False

    def handle_data(self, data: str) -> None:
        """Text of the page, or of a cell."""
        self.text += data
        if self._cell:
            self.tables[self._title][-1][-1] += data


def seen(page: str) -> Seen:
    """What a document has in it."""
    found = Seen()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop of two months and two stores, with a refused row and a refused file."""
    shop = Shop(tmp_path_factory.mktemp("reported") / "shop")
    write_project(shop.folder, sample=False, stories=("tills",))
    keep_only(
        shop.folder,
        marts=("customer_monthly_purchase", "sales_team_incentive"),
    )
    select = "SELECT product_name, sum(total_cost) AS money FROM sales GROUP BY ALL"
    header = "-- refresh: full\n-- key: [product_name]\n"
    (shop.folder / "marts" / "by_product.sql").write_text(header + select)
    shop.backend.execute_in_shop(*shop_tables())
    names = [HOSTILE, RTL, LONG]
    lines = [sale(n, price=f"{n}1.15").replace("tea", name) for n, name in enumerate(names, 1)]
    lines += [sale(1, store=2, day="2024-02-01", price="99999999.99"), sale(3, day="2024-02-31")]
    shop.sales("sales_1.csv", lines)
    shop.drop("notes.csv", "a,b\n1,2\n")
    shop.run()
    return shop


def test_figures_are_the_marts(reported: Shop) -> None:
    """What Chromium shows of a chart are the sums of the mart, to the cent."""
    page = seen(dom_of(Path(reported.open().report().path)))
    shown = {
        (row[0], row[1]): Decimal(row[2].replace(",", ""))
        for row in page.tables["Sales by month and store"]
        if row
    }
    expected: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for month, store, total in reported.mart(
        "sales_team_incentive", "_month, store_id, total_sales"
    ):
        expected[month, str(store)] += Decimal(total)
    assert shown == expected
    assert sum(shown.values()) == Decimal("11.15") + Decimal("21.15") + Decimal("31.15") + Decimal(
        "99999999.99"
    )


def test_every_chart_of_the_sample_is_right(tmp_path: Path) -> None:
    """Bars, lines and heat maps of all three stories, added up again from the marts' rows."""
    shop = Shop(tmp_path / "shop")
    write_project(shop.folder, sample=True)
    shop.run()
    page = seen(Path(shop.open().report().path).read_text(encoding="utf-8"))
    compared = 0
    for path in sorted((shop.folder / "marts").glob("*.sql")):
        for chart in charts_in(path.read_text()):
            if chart["kind"] == "table":
                assert len(page.tables[chart["title"]]) > 1
                continue
            for title, sums in added_up(shop, path.stem, chart).items():
                shown = {tuple(row[:-1]): row[-1] for row in page.tables[title] if row}
                for at, value in shown.items():
                    figure = Decimal(value.replace(",", ""))
                    if "others" not in at:
                        assert figure == sums.pop(at), (title, at)
                    else:
                        rest = [key for key in sums if fits(at, key, shown)]
                        assert figure == sum(sums.pop(key) for key in rest), (title, at)
                assert sums == {}, title
                compared += 1
    assert compared > 8


def charts_in(text: str) -> list[dict[str, Any]]:
    """The charts that a mart's header names."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("-- "):
            break
        lines.append(line.removeprefix("-- "))
    charts = yaml.safe_load("\n".join(lines)).get("chart") or []
    return [charts] if isinstance(charts, dict) else charts


def added_up(
    shop: Shop, mart: str, chart: dict[str, Any]
) -> dict[str, dict[tuple[str, ...], Decimal]]:
    """The figures of a chart by its title, or by each value of `per`."""
    names = [name for name in (chart["x"], chart.get("by")) if name]
    columns = [*names, chart.get("per", chart["x"]), chart.get("y", chart["x"])]
    found: dict[str, dict[tuple[str, ...], Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for *at, per, figure in shop.mart(mart, ", ".join(f'"{name}"' for name in columns)):
        title = f"{chart['title']}: {per}" if "per" in chart else chart["title"]
        texts = tuple("(none)" if one is None else str(one) for one in at)
        found[title][texts] += 1 if chart.get("total") == "count" else Decimal(figure or 0)
    return found


def fits(at: tuple[str, ...], key: tuple[str, ...], shown: Collection[tuple[str, ...]]) -> bool:
    """Whether a figure of a mart is part of one that is called `others`."""
    named = [{row[place] for row in shown} for place in range(len(at))]
    parts = zip(at, key, named, strict=True)
    return all(one == other or (one == "others" and other not in own) for one, other, own in parts)


def test_what_a_later_run_changed_is_told(tmp_path: Path) -> None:
    """A correction, an unknown key that comes late, and months that were published before."""
    shop = Shop(tmp_path / "shop")
    write_project(shop.folder, sample=False, stories=("tills",))
    keep_only(shop.folder, marts=("customer_monthly_purchase",))
    shop.backend.execute_in_shop(*shop_tables())
    shop.sales("sales_1.csv", [sale(1), sale(77, day="2024-02-01", price="7.70")])
    shop.run()
    assert "unknown keys: 1 key of customer_id in 1 row" in text_of(shop)
    shop.backend.execute_in_shop(
        "INSERT INTO customer VALUES (77, 'Late', 'L', 'r', '6', '9', '2020-01-01')"
    )
    shop.sales("sales_2.csv", [sale(2, day="2024-02-02")])
    shop.run()
    assert "late keys: 1 key of customer came after 1 row of sales, 7.70" in text_of(shop)
    assert "restated months: 2024-02 of sales" in text_of(shop)
    shop.sales("sales_1.csv", [sale(1, price="12.50"), sale(77, day="2024-02-01", price="7.70")])
    shop.run()
    assert "sales_1.csv was corrected: +0 rows, +2.50" in text_of(shop)
    assert re.findall(r"restated months: (.*?) ?Rows came", text_of(shop)) == ["2024-01 of sales"]


def text_of(shop: Shop) -> str:
    """What the page says."""
    return " ".join(seen(Path(shop.open().report().path).read_text(encoding="utf-8")).text.split())


def test_hostile_names_are_text(reported: Shop) -> None:
    """Names with tags, from right to left, or very long, are shown and run nothing."""
    page = seen(dom_of(Path(reported.open().report().path)))
    names = {row[0] for row in page.tables["Rows"] if row}
    assert {HOSTILE, RTL, LONG} <= names
    assert "script" not in {tag for tag, _ in page.tags}


def test_the_file_stands_alone(reported: Shop) -> None:
    """No script, no address outside, and small."""
    text = Path(reported.open().report().path).read_text(encoding="utf-8")
    assert not re.search(r"https?://|//\w+\.|url\(|@import", text)
    links = [
        value for tag, at in seen(text).tags for key, value in at.items() if key in ("href", "src")
    ]
    assert links
    assert all(link and link.startswith("#") for link in links)
    assert len(text) < 1_000_000


def test_what_needs_a_person_comes_first(reported: Shop) -> None:
    """The refused file and the money of refused rows stand above all else."""
    text = seen(Path(reported.open().report().path).read_text(encoding="utf-8")).text
    first = text[text.index("What needs a person", text.index("What happened")) :]
    first = first[: first.index("What happened")]
    assert "notes.csv" in first
    assert "1 refused row" in first
    assert "10.00" in first


def test_the_money_of_refused_rows_is_of_open_ones_as_their_feed_reads_it(shop: Shop) -> None:
    """With decimal commas as the feed has them; what is dismissed is nobody's work any more."""
    feed = shop.folder / "feeds" / "sales.yml"
    text = feed.read_text().replace("columns:", 'decimal: ","\ndelimiter: ";"\ncolumns:', 1)
    feed.write_text(text)
    lines = [
        row.replace(",", ";").replace(".", ",")
        for row in (
            sale(price="1.00"),
            sale(2, day="soon", price="12.50"),
            sale(3, day="late", price="7.05"),
        )
    ]
    shop.sales("sales_a.csv", lines, HEADER.replace(",", ";"))
    shop.run()
    assert "2 refused rows of sales hold 19.55" in _text_of(shop)
    shop.open().quarantine_dismiss("sales_a.csv", lines=[3], reason="a test")
    text = _text_of(shop)
    assert "1 refused row of sales holds 7.05" in text
    assert "19.55" not in text


def _text_of(shop: Shop) -> str:
    return seen(Path(shop.open().report().path).read_text(encoding="utf-8")).text


def test_charts_have_tables_and_the_keyboard_reaches_all(reported: Shop) -> None:
    """Each drawing has a name and a table; no order of focus is forced; tables can be scrolled."""
    text = Path(reported.open().report().path).read_text(encoding="utf-8")
    tags = seen(text).tags
    drawings = [at for tag, at in tags if at.get("role") == "img"]
    assert drawings
    assert all(at["aria-label"] for at in drawings)
    assert len(re.findall(r"</svg></div>\s*<details><summary>", text)) == len(drawings)
    assert {at["tabindex"] for _, at in tags if "tabindex" in at} == {"0"}
    ids = [at["id"] for _, at in tags if "id" in at]
    assert len(ids) == len(set(ids))


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_enough(reported: Shop) -> None:
    """Texts reach 4.5 to 1 on their ground, and colours of charts 3 to 1, in light and dark."""
    text = Path(reported.open().report().path).read_text(encoding="utf-8")
    sets = re.findall(r":root\{(.*?)\}", text, flags=re.DOTALL)
    assert len(sets) == 3  # light, dark, print
    for declared in sets:
        pairs = dict(re.findall(r"--(\w+):(#\w+)", declared))
        colours = {
            k: v if len(v) == 7 else "#" + "".join(c * 2 for c in v[1:]) for k, v in pairs.items()
        }

        def ratio(one: str, other: str, known: dict[str, str] = colours) -> float:
            light, dark = sorted((_luminance(known[one]), _luminance(known[other])), reverse=True)
            return (light + 0.05) / (dark + 0.05)

        for ground in ("ground", "card"):
            assert min(ratio(one, ground) for one in ("ink", "soft", "link")) >= 4.5
            assert min(ratio(f"c{n}", ground) for n in range(1, 9)) >= 3
        assert ratio("warn", "warnbg") >= 4.5
        assert ratio("good", "goodbg") >= 4.5


def test_an_empty_project_says_what_to_do(tmp_path: Path) -> None:
    """Before the first run the page names landing and the command; no secret is in it."""
    bare_project(tmp_path, "sources: {shop: 'mysql://mart@127.0.0.1:1/shop'}\n")
    (tmp_path / ".env").write_text("MYSQL_PASSWORD=hush-hush\n")
    written = open_project(tmp_path).report()
    text = Path(written.path).read_text(encoding="utf-8")
    assert "retailmart run" in text
    assert "hush-hush" not in text
    assert written.pages == ()


def test_a_wrong_chart_is_named(tmp_path: Path) -> None:
    """An unknown key is a mistake of the header; a condition that fails costs its chart only."""
    bare_project(tmp_path)
    mart = tmp_path / "marts" / "one.sql"
    mart.write_text(
        "-- refresh: full\n-- chart: {kind: bar, x: a, y: b, colour: red}\nSELECT 1 AS a, 2 AS b"
    )
    with pytest.raises(SettingsError, match="colour"):
        open_project(tmp_path)


def test_a_chart_does_not_rebuild_a_mart(reported: Shop) -> None:
    """What a mart shows is no part of what it computes."""
    before = reported.open().project.marts["by_product"]
    path = reported.folder / "marts" / "by_product.sql"
    path.write_text("-- chart: {kind: bar, x: product_name, y: money}\n" + path.read_text())
    after = reported.open().project.marts["by_product"]
    assert after.charts != before.charts
    assert after.fingerprint({}) == before.fingerprint({})


def test_a_run_writes_it_where_settings_say_so(tmp_path: Path, called: Called) -> None:
    """`report: always` writes one for each run that did something, and keeps the newest."""
    shop = Shop(tmp_path / "shop")
    write_project(shop.folder, sample=False, stories=("tills",))
    keep_only(shop.folder, marts=("customer_monthly_purchase",))
    shop.backend.execute_in_shop(*shop_tables())
    settings = shop.folder / "retailmart.yml"
    settings.write_text(settings.read_text() + "\nreport: {write: always, keep: 1}\n")
    for number in (1, 2):
        shop.sales(f"sales_{number}.csv", [sale(number)])
        shop.run()
    shop.run()
    assert [path.name for path in (shop.folder / "reports").iterdir()] == ["run-000002.html"]
    settings.write_text(settings.read_text().replace("{write: always, keep: 1}", "always"))
    assert shop.open().project.settings.report.keep == 30
    done = called(shop.folder, "report", "--to", "one.html")
    assert (done.returncode, done.stdout.strip()) == (0, "one.html")


def test_ten_years_of_five_hundred_stores_stay_small_and_quick(tmp_path: Path) -> None:
    """Years are shown where months are many, the largest stores where stores are; and exactly."""
    shop = Shop(tmp_path / "shop")
    write_project(shop.folder, sample=False, stories=("tills",))
    keep_only(shop.folder, marts=())
    shop.backend.execute_in_shop(*shop_tables())
    shop.sales("sales_1.csv", [sale()])
    query = (
        "SELECT strftime(DATE '2014-01-01' + to_months(CAST(m AS INTEGER)), '%Y-%m') AS month_,"
        " s AS store_id, CAST(s * 1000 + m AS DECIMAL(18, 2)) AS total FROM range(120) a(m),"
        " range(500) b(s)"
    )
    chart = "-- chart: {kind: line, title: Sales, x: month_, y: total, by: store_id}\n"
    header = "-- refresh: full\n-- key: [month_, store_id]\n"
    for number in range(10):
        (shop.folder / "marts" / f"big_{number}.sql").write_text(chart + header + query)
    shop.run()
    written = shop.open().report()
    assert written.size < 1_000_000
    page = Path(written.path)
    # Of several tries the quickest: what else the machine does is not the page's fault.
    assert min(seconds_to_paint(page, tmp_path) for _ in range(3)) <= 1
    shown = page.read_text(encoding="utf-8")
    rows = [row for row in seen(shown).tables["Sales"] if row]
    total = sum(Decimal(row[2].replace(",", "")) for row in rows)
    assert total == 10 * sum(s * 1000 + m for s in range(500) for m in range(120))
