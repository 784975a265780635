"""Text columns of published tables: as long as their values, so that users can index them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from retailmart.database.dialect import UNFILLED

# In characters. From the first length on, InnoDB keeps columns outside a row's page. An index holds
# up to the last length; a longer value becomes LONGTEXT, which holds any text.
_LENGTHS = (64, 255, 768)
_LETTER_BYTES = 4
_INDEX_BYTES = 3072
# A row may have 65,535 bytes in all, without LONGTEXT. A new table's texts take less than half: the
# rest is for its other columns, for longer values later and for columns that users add.
_NEW_TABLE_BYTES = 30_000
_TABLE_BYTES = 60_000
_ANY_BYTES = 16  # about the bytes of a non-text column in an index
_COLUMNS = text(
    "SELECT column_name, data_type IN ('char', 'varchar'), character_maximum_length,"
    " character_octet_length FROM information_schema.columns"
    " WHERE table_schema = DATABASE() AND table_name = :name"
    " AND character_maximum_length IS NOT NULL"
)
_INDEXES = text(
    "SELECT index_name, column_name, sub_part FROM information_schema.statistics"
    " WHERE table_schema = DATABASE() AND table_name = :name AND index_name <> 'PRIMARY'"
    " AND index_type = 'BTREE' ORDER BY index_name, seq_in_index"
)
# The server does not change a column that a foreign key uses, on either side.
_FOREIGN_KEYS = text(
    "SELECT column_name, CONCAT('foreign key ', constraint_name) FROM"
    " information_schema.key_column_usage WHERE table_schema = DATABASE() AND table_name = :name"
    " AND referenced_table_name IS NOT NULL"
    " UNION ALL SELECT referenced_column_name,"
    " CONCAT('foreign key ', constraint_name, ' of table ', table_name)"
    " FROM information_schema.key_column_usage"
    " WHERE referenced_table_schema = DATABASE() AND referenced_table_name = :name"
)
_COLLATION = text("SELECT @@collation_database")


def collation_of(connection: Connection) -> str | None:
    """The database's own collation; None if its character set does not hold all texts.

    None means the server's default for utf8mb4.
    """
    name = str(connection.scalar(_COLLATION))
    return name if name.startswith("utf8mb4") else None


def lengths_for(longest: Mapping[str, int], room: int = _NEW_TABLE_BYTES) -> dict[str, int]:
    """The length of each column's VARCHAR, by its longest value; LONGTEXT has no length.

    A column has room for values twice as long, where possible. `room` is in bytes of a row.
    """
    found: dict[str, int] = {}
    for name, length in sorted(longest.items(), key=lambda item: item[1]):
        fits = [each for each in _LENGTHS if each >= 2 * length]
        chosen = fits[0] if fits else _LENGTHS[-1]
        size = chosen * _LETTER_BYTES + 2
        if length <= chosen and size <= room:
            found[name] = chosen
            room -= size
    return found


def too_short(
    connection: Connection, table: str, longest: Mapping[str, int]
) -> dict[str, int | None]:
    """Columns too short for their longest values, with the needed length; None means any."""
    room, short = _TABLE_BYTES, {}
    for name, is_varchar, letters, size in connection.execute(_COLUMNS, {"name": table}):
        most = int(letters) if is_varchar else int(size) // _LETTER_BYTES
        if longest.get(name, 0) > most:
            short[name] = longest[name]
        elif is_varchar:
            room -= int(size) + 2
    found = lengths_for(short, room)
    return {name: found.get(name) for name in short}


def widen(connection: Connection, table: str, longest: Mapping[str, int]) -> None:
    """Lengthen columns that are too short for their longest values.

    The collation, default and comment that users gave a column stay.
    """
    changes = too_short(connection, table, longest)
    if not changes:
        return
    shown = _shown(connection, table)
    _modify(
        connection,
        table,
        {name: _kind(length) + _defined(shown, name)[1] for name, length in changes.items()},
    )


def settle(connection: Connection, table: str, columns: Sequence[str]) -> None:
    """Take the comment off columns that are filled; all else of theirs stays."""
    if columns:
        shown = _shown(connection, table)
        comment = f" COMMENT '{UNFILLED}'"
        plain = {name: "".join(_defined(shown, name)).replace(comment, "") for name in columns}
        _modify(connection, table, plain)


def _shown(connection: Connection, table: str) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    return str(connection.exec_driver_sql(f"SHOW CREATE TABLE {quote(table)}").one()[1])


def _defined(shown: str, column: str) -> tuple[str, str]:
    """A column's type as the server shows it, and what follows it."""
    plain = re.escape(column.replace("`", "``"))
    line = re.search(rf"^  `{plain}` (\w+(?:\([\d,]+\))?)(.*?),?$", shown, re.MULTILINE)
    return (line[1], line[2]) if line else ("", "")


def _modify(connection: Connection, table: str, columns: Mapping[str, str]) -> None:
    quote = connection.dialect.identifier_preparer.quote_identifier
    steps = [
        f"MODIFY {quote(name)} {rest.replace('%', '%%')}"  # quoted names have them doubled
        for name, rest in columns.items()
    ]
    connection.exec_driver_sql(f"ALTER TABLE {quote(table)} {', '.join(steps)}")


def in_the_way(
    connection: Connection, table: str, longest: Mapping[str, int]
) -> tuple[str, str] | None:
    """A column that cannot be lengthened as needed, and the index or key that forbids it."""
    changes = too_short(connection, table, longest)
    if not changes:
        return None
    for name, key in connection.execute(_FOREIGN_KEYS, {"name": table}):
        if name in changes:
            return str(name), str(key)
    columns = connection.execute(_COLUMNS, {"name": table}).all()
    sizes = {name: int(size) for name, _, _, size in columns}
    used: dict[str, int] = {}
    for index, name, prefix in connection.execute(_INDEXES, {"name": table}):
        length = changes.get(name, 0)
        if prefix is not None:
            size = int(prefix) * _LETTER_BYTES
        elif length is None:
            return str(name), f"index {index}"
        else:
            size = length * _LETTER_BYTES or sizes.get(name, _ANY_BYTES)
        used[index] = used.get(index, 0) + size
        if length and used[index] > _INDEX_BYTES:
            return str(name), f"index {index}"
    return None


def _kind(length: int | None) -> str:
    return "LONGTEXT" if length is None else f"VARCHAR({length})"
