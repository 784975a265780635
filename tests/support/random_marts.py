"""Marts that nobody would write, and what happens to a shop that has them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MONTHS = ("2023-10", "2023-11", "2023-12", "2024-01", "2024-02", "2024-03")
_MONTHLY = ("sales", "returns")
VARIABLES = {"rate": 2, "least": 1}


@dataclass
class Writer:
    """Writes marts by chance. `monthly` and `whole` are the marts that later ones may read."""

    dice: random.Random
    monthly: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)

    def mart(self, name: str) -> str:
        """A mart's file. All marts have the same columns, so that any can read any."""
        query = self._query()
        refresh = self.dice.choice(("append", "append", "months", "months", "full"))
        partitions = "[_month]"
        if refresh == "full":
            partitions = self.dice.choice(("[]", "[_month]", "[word]", "[word, k]"))
        elif self.dice.random() < 0.3:
            partitions = self.dice.choice(("[_month, word]", "[_month, k]"))
        (self.whole if refresh == "full" else self.monthly).append(name)
        return (
            f"-- refresh: {refresh}\n-- partitions: {partitions}\n"
            f"-- variables: {{rate: {VARIABLES['rate']}, least: {VARIABLES['least']}}}\n{query}\n"
        )

    def _query(self) -> str:
        if self.dice.random() < 0.12:
            union = self.dice.choice(("UNION ALL", "UNION ALL", "UNION", "EXCEPT ALL"))
            return f"SELECT * FROM ({self._rows()})\n{union}\nSELECT * FROM ({self._rows()})"
        return self._rows()

    def _rows(self) -> str:
        """Rows of _month, k, p, day, amount, word."""
        shape = self.dice.choice((self._plain, self._plain, self._grouped, self._window))
        return shape(self._source())

    def _source(self) -> str:
        """What FROM names, of the columns _month, k, p, day, amount, note."""
        columns = "_month, k, p, day, amount, note"
        of_mart = "_month, k, p, day, amount, word AS note"
        feed = self.dice.choice(_MONTHLY)
        sources = [
            *[feed] * 10,
            f"(SELECT {columns} FROM {feed} WHERE amount > getvariable('least'))",
            f"(SELECT {columns} FROM sales UNION ALL SELECT {columns} FROM returns)",
            f"(SELECT {columns} FROM sales UNION SELECT {columns} FROM returns)",
            f"(SELECT {columns} FROM sales s WHERE EXISTS"
            " (SELECT 1 FROM returns r WHERE r.k = s.k))",
            f"(SELECT {columns} FROM sales s WHERE k NOT IN"
            " (SELECT k FROM returns r WHERE r.amount > 5))",
            "(SELECT s._month, s.k, s.p, s.day, s.amount + coalesce(r.amount, 0) AS amount, s.note"
            " FROM sales s LEFT JOIN (SELECT k, sum(amount) AS amount FROM returns GROUP BY k) r"
            " ON r.k = s.k)",
            "(SELECT '2024-0' || (1 + level % 3) AS _month, p AS k, p, DATE '2024-01-01' AS day,"
            " level AS amount, 'stock' AS note FROM stock)",
            "(SELECT s._month, s.k, s.p, s.day, s.amount + t.level AS amount, s.note FROM sales s"
            " JOIN stock t ON t.p = s.p)",
        ]
        sources += [f"(SELECT {of_mart} FROM {name})" for name in self.monthly[-4:]]
        sources += [
            f"(SELECT s._month, s.k, s.p, s.day, s.amount, m.word AS note FROM sales s"
            f" LEFT JOIN (SELECT k, max(word) AS word FROM {name} GROUP BY k) m ON m.k = s.k)"
            for name in (*self.monthly[-2:], *self.whole[-2:])
        ]
        return self.dice.choice(sources)

    def _plain(self, source: str) -> str:
        joins, word = self._lookup("s")
        where = self.dice.choice(("", "", " WHERE s.amount <> 3", " WHERE s.note IS NOT NULL"))
        amount = self.dice.choice(
            ("s.amount", "s.amount * getvariable('rate')", "s.amount + date_part('day', s.day)")
        )
        if self.dice.random() < 0.05:
            amount = "s.amount + date_part('day', CAST(getvariable('as_of') AS DATE))"
        return (
            f"SELECT s._month, s.k, s.p, s.day, CAST({amount} AS DECIMAL(18, 2)) AS amount,"
            f" {word} AS word FROM {source} s{joins}{where}"
        )

    def _grouped(self, source: str) -> str:
        joins, word = self._lookup("g")
        by = self.dice.choice(("_month, k", "_month, p", "_month", "_month, k, note"))
        keys = {key.strip() for key in by.split(",")}
        taken = ", ".join(
            name if name in keys else f"max({name}) AS {name}" for name in ("k", "p", "note")
        )
        return (
            f"WITH g AS (SELECT _month, {taken}, min(day) AS day, sum(amount) AS amount"
            f" FROM {source} GROUP BY {by})"
            " SELECT g._month, g.k, g.p, g.day, CAST(g.amount AS DECIMAL(18, 2)) AS amount,"
            f" {word} AS word FROM g{joins}"
        )

    def _window(self, source: str) -> str:
        over = self.dice.choice(
            ("PARTITION BY k", "PARTITION BY _month, k", "PARTITION BY p ORDER BY day", "")
        )
        function = self.dice.choice(("sum(amount)", "count(*)", "max(amount)"))
        joins, word = self._lookup("w")
        return (
            f"WITH w AS (SELECT *, {function} OVER ({over}) AS total FROM {source})"
            f" SELECT w._month, w.k, w.p, w.day, CAST(w.total AS DECIMAL(18, 2)) AS amount,"
            f" {word} AS word FROM w{joins}"
        )

    def _lookup(self, of: str) -> tuple[str, str]:
        """A join of tables, and a word from them."""
        history = (
            f" LEFT JOIN person_history h ON h.id = {of}.p AND {of}.day >= h._valid_from"
            f" AND {of}.day < h._valid_to"
        )
        if self.dice.random() < 0.5:  # what shows rows of some months only, or looks as if it did
            return self.dice.choice(
                (
                    (f" LEFT JOIN customer c ON c.id = {of}.k", "c.name"),
                    (f" LEFT JOIN customer c ON {of}.k = c.id AND c.boss > 2", "c.name"),
                    (f" LEFT JOIN customer c ON c.id = {of}.k OR c.boss = {of}.k", "c.name"),
                    (f" LEFT JOIN person p2 ON p2.id = {of}.p", "p2.name"),
                    *[(history, "h.name"), (history, "CAST(h._valid_to AS VARCHAR)")] * 2,
                )
            )
        return self.dice.choice(
            (
                ("", f"{of}.note"),
                ("", f"nullif({of}.note, 'a')"),
                (f" LEFT JOIN customer c ON c.id = {of}.k", "c.name"),
                (f" JOIN customer c ON c.id = {of}.k", "c.name"),
                (
                    f" LEFT JOIN customer c ON c.id = {of}.k LEFT JOIN customer b ON b.id = c.boss",
                    "b.name",
                ),
                (f" LEFT JOIN customer c ON c.id = {of}.k + 1", "c.name"),
                (f" LEFT JOIN customer c ON c.id = {of}.k OR c.id = {of}.p", "c.name"),
                (f" SEMI JOIN customer c ON c.id = {of}.k", f"{of}.note"),
                (f" ANTI JOIN customer c ON c.id = {of}.k", f"{of}.note"),
                (
                    f" LEFT JOIN (SELECT id, name, rank() OVER (ORDER BY name, id) AS r"
                    f" FROM customer) c ON c.id = {of}.k",
                    "CAST(c.r AS VARCHAR)",
                ),
                ("", "CAST((SELECT count(*) FROM customer) AS VARCHAR)"),
                ("", f"(SELECT max(name) FROM customer c WHERE c.id = {of}.k)"),
                ("", f"(SELECT max(name) FROM customer c WHERE c.id > {of}.k)"),
                (f" LEFT JOIN person p2 ON p2.id = {of}.p", "p2.name"),
                (history, "h.name"),
                (history, "CAST(h._valid_to AS VARCHAR)"),
                (f" LEFT JOIN person_history h ON h.id = {of}.p", "h.name"),
                (
                    f"{history} LEFT JOIN customer c ON c.id = h.customer",
                    "coalesce(h.name, '') || coalesce(c.name, '')",
                ),
            )
        )


def rows(
    dice: random.Random, serial: Iterator[int], months: Sequence[str] = (), least: int = 1
) -> list[str]:
    """Lines of a monthly feed's file, no two of which are the same in any file.

    A month has mostly keys of its own, so that what changes of a key shows in few months.
    """
    months = months or dice.sample(MONTHS, dice.choice((1, 1, 2, 3)))
    lines = []
    for _ in range(dice.randint(least, least + 4)):
        month = dice.choice(months)
        own = MONTHS.index(month) + 1
        key, person = (own, (own + 1) // 2) if dice.random() < 0.7 else (dice.randint(1, 7), 4)
        lines.append(
            f"{key},{person},{month}-{dice.randint(1, 28):02d},"
            f"{dice.randint(1, 9)}.{next(serial) % 100:02d},{dice.choice(('a', 'b', ''))}"
        )
    return lines
