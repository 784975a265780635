"""Text columns of published tables: as long as their values, to be searched and indexed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.support.backends import on_mariadb
from tests.support.services.mariadb import Database
from tests.support.shop import Called, Shop, keep_only

_FEED = "files: ['notes*.csv']\ncolumns: {id: INT, name: STRING, remark: STRING}\n"
_MART = """-- refresh: full
-- key: [id]
-- publish: true
SELECT id, name, remark FROM notes
"""
_BY_NAME = """-- refresh: full
-- key: [name]
-- publish: true
SELECT name, max(remark) AS remark FROM notes GROUP BY name
"""
_COLUMNS = (
    "SELECT column_name, column_type FROM information_schema.columns"
    " WHERE table_schema = DATABASE() AND table_name = 'listed' AND column_name <> 'id'"
    " ORDER BY ordinal_position"
)


def _notes(shop: Shop) -> Shop:
    keep_only(shop.folder, marts=(), feeds=(), tables=())
    (shop.folder / "feeds" / "notes.yml").write_text(_FEED)
    (shop.folder / "marts" / "listed.sql").write_text(_MART)
    return shop


@pytest.fixture
def notes(shop: Shop, database: Database) -> Shop:
    """A mart of notes, published to MariaDB."""
    return _notes(Shop(shop.folder, on_mariadb(shop.folder, database)))


def deliver(shop: Shop, name: str, rows: Iterable[tuple[int, str, str]]) -> None:
    """A file of notes."""
    lines = "".join(f'{number},"{title}","{text}"\n' for number, title, text in rows)
    shop.drop(name, f"id,name,remark\n{lines}")


def kinds(shop: Shop) -> dict[str, str]:
    """The types of the published text columns."""
    return {str(name): str(kind) for name, kind in shop.backend.query(_COLUMNS)}


def test_texts_can_be_searched_and_indexed(notes: Shop) -> None:
    """A column is about as long as its values, and an index needs no prefix."""
    deliver(notes, "notes_1.csv", [(1, "tea", "x" * 100), (2, "teapot", "x" * 5000)])
    notes.run()
    assert kinds(notes) == {"name": "varchar(64)", "remark": "longtext"}
    notes.backend.execute("CREATE INDEX by_name ON listed (name)")
    assert notes.published("listed WHERE name LIKE 'teap%'", "id") == [(2,)]
    (plan,) = notes.backend.query("EXPLAIN SELECT id FROM listed WHERE name LIKE 'teap%'")
    assert "by_name" in plan


_INDEX = "CREATE INDEX by_name ON listed (name)"


@pytest.mark.parametrize("added", [(), (_INDEX,)], ids=["alone", "indexed"])
def test_a_column_grows_with_its_values(notes: Shop, added: tuple[str, ...]) -> None:
    """Longer texts widen the table before they are written; people's collation and index stay."""
    deliver(notes, "notes_1.csv", [(1, "tea", "")])
    notes.run()
    notes.backend.execute(
        "ALTER TABLE listed MODIFY name VARCHAR(64) CHARACTER SET utf8mb4"
        " COLLATE utf8mb4_general_ci DEFAULT 'none' COMMENT 'what it''s 100% called, say'"
    )
    notes.backend.execute(*added)
    for length, kind in ((64, "varchar(64)"), (65, "varchar(255)"), (768, "varchar(768)")):
        text = "\U0001f375" * length
        deliver(notes, f"notes_{length}.csv", [(length, text, "")])
        assert notes.run().held == ()
        assert kinds(notes)["name"] == kind
        assert notes.published(f"listed WHERE id = {length}", "name") == [(text,)]
    about = notes.backend.query(
        "SELECT collation_name, column_default, column_comment FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = 'listed' AND column_name = 'name'"
    )
    assert about == [("utf8mb4_general_ci", "'none'", "what it's 100% called, say")]
    assert len(notes.published("listed")) == 4


def test_a_text_that_an_index_cannot_hold_holds_the_mart_back(notes: Shop, called: Called) -> None:
    """It is found before anything is decided, names the index, and waits until that is away."""
    deliver(notes, "notes_1.csv", [(1, "tea", "")])
    notes.run()
    notes.backend.execute("CREATE INDEX by_name ON listed (name)")
    deliver(notes, "notes_2.csv", [(2, "x" * 769, "")])
    done = called(notes.folder, "run")
    assert done.returncode == 5
    assert "column name gets a text of 769 characters" in done.stderr
    assert "people added: index by_name" in done.stderr
    assert "(name(255))" in done.stderr
    assert kinds(notes)["name"] == "varchar(64)"
    notes.backend.execute("DROP INDEX by_name ON listed")
    assert notes.run().held == ()
    notes.backend.execute("CREATE INDEX by_name ON listed (name(255))")
    deliver(notes, "notes_3.csv", [(3, "y" * 9000, "")])
    assert notes.run().held == ()
    assert len(notes.published("listed", "name")) == 3
    assert kinds(notes)["name"] == "longtext"


def test_a_column_that_a_foreign_key_holds_is_named(notes: Shop) -> None:
    """The server would refuse to change it, and shorter texts go on being published."""
    deliver(notes, "notes_1.csv", [(1, "tea", "")])
    notes.run()
    notes.backend.execute(
        _INDEX,
        "CREATE TABLE child (name VARCHAR(64), FOREIGN KEY (name) REFERENCES listed (name))"
        " CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        "INSERT INTO child VALUES ('tea')",
    )
    deliver(notes, "notes_2.csv", [(2, "x" * 64, "")])
    assert notes.run().held == ()
    deliver(notes, "notes_3.csv", [(3, "x" * 65, "")])
    (held,) = notes.run().held
    assert "column name gets a text of 65 characters" in held.message
    assert "people added: foreign key child_ibfk_1 of table child" in held.message
    notes.backend.execute("DROP TABLE child")
    assert notes.run().held == ()
    assert len(notes.published("listed")) == 3


def test_a_table_of_an_older_release_stays_as_it_is(notes: Shop) -> None:
    """LONGTEXT holds whatever comes: nothing is rewritten for its type alone."""
    deliver(notes, "notes_1.csv", [(1, "tea", "")])
    notes.run()
    notes.backend.execute("ALTER TABLE listed MODIFY name LONGTEXT, MODIFY remark LONGTEXT")
    deliver(notes, "notes_2.csv", [(2, "x" * 5000, "")])
    notes.run()
    assert set(kinds(notes).values()) == {"longtext"}
    (notes.folder / "marts" / "listed.sql").write_text(
        _MART.replace("name,", "left(name, 9) name,")
    )
    notes.run()
    assert kinds(notes) == {"name": "varchar(64)", "remark": "varchar(64)"}


def test_many_long_columns_fit_into_a_row(notes: Shop) -> None:
    """What a row can't hold in VARCHARs becomes LONGTEXT, also where columns grow later."""
    names = [f"t{number}" for number in range(80)]
    columns = ", ".join(f"{name}: STRING" for name in names)
    (notes.folder / "feeds" / "notes.yml").write_text(
        f"files: ['notes*.csv']\ncolumns: {{id: INT, {columns}}}\n"
    )
    (notes.folder / "marts" / "listed.sql").write_text(
        _MART.replace("id, name, remark", ", ".join(["id", *names]))
    )
    for number, length in ((1, 30), (2, 120), (3, 700)):
        line = ",".join("x" * length for _ in names)
        notes.drop(f"notes_{number}.csv", f"id,{','.join(names)}\n{number},{line}\n")
        assert notes.run().held == ()
    found = list(kinds(notes).values())
    assert set(found) == {"varchar(768)", "longtext"}
    assert notes.published("listed", "id, length(t0), length(t79)")[-1] == (3, 700, 700)


@pytest.mark.parametrize("collation", ["exact", "database"])
@pytest.mark.parametrize("mart", [_MART, _BY_NAME])
def test_differences_are_of_bytes_whatever_the_collation(
    notes: Shop, database: Database, mart: str, collation: str
) -> None:
    """A correction of letter case alone is published; keys that differ in nothing else are two."""
    database.execute(
        f"ALTER DATABASE `{database.name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
    )
    settings = notes.folder / "retailmart.yml"
    settings.write_text(f"{settings.read_text()}publish: {{collation: {collation}}}\n")
    (notes.folder / "marts" / "listed.sql").write_text(mart)
    deliver(notes, "notes_1.csv", [(1, "a", "x"), (2, "A", "X"), (3, "a ", "é")])
    notes.run()
    assert len(notes.published("listed", "name, remark")) == 3
    same = notes.published("listed WHERE remark = 'x'", "remark")
    assert same == ([("X",), ("x",)] if collation == "database" else [("x",)])
    deliver(notes, "notes_1.csv", [(1, "a", "X"), (2, "A", "x"), (3, "a ", "e")])
    report = notes.run()
    assert report.held == ()
    assert [line.changed for line in report.batches[0].marts] == [3]
    found = notes.published("listed", "name, remark")
    assert found == [("A", "x"), ("a", "X"), ("a ", "e")]
    assert notes.run().nothing_to_do


def test_a_database_of_another_alphabet_gets_the_servers_default(
    notes: Shop, database: Database
) -> None:
    """Latin letters alone would not hold all texts."""
    database.execute(f"ALTER DATABASE `{database.name}` CHARACTER SET latin1")
    settings = notes.folder / "retailmart.yml"
    settings.write_text(f"{settings.read_text()}publish: {{collation: database}}\n")
    deliver(notes, "notes_1.csv", [(1, "\U0001f375", "x")])
    notes.run()
    assert notes.published("listed WHERE remark = 'X'", "name") == [("\U0001f375",)]


def test_sqlite_knows_neither_lengths_nor_a_collation(shop: Shop) -> None:
    """Its TEXT is indexed as it is, and the setting changes nothing."""
    notes = _notes(shop)
    settings = notes.folder / "retailmart.yml"
    settings.write_text(f"{settings.read_text()}publish: {{collation: database}}\n")
    deliver(notes, "notes_1.csv", [(1, "a", "x"), (2, "A", "y" * 5000)])
    notes.run()
    notes.backend.execute("CREATE INDEX by_name ON listed (name)")
    assert notes.published("listed WHERE name = 'a'", "id") == [(1,)]
    deliver(notes, "notes_2.csv", [(3, "z" * 5000, "")])
    assert notes.run().held == ()
    assert len(notes.published("listed")) == 3
