"""Export marts as plain Parquet under the run's date, for tools that do not know Delta."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from io import BytesIO

from retailmart.lake import Lake
from retailmart.lake.layout import mart_table
from retailmart.lake.places import Export
from retailmart.ledger import Ledger
from retailmart.project.mart import Mart
from retailmart.tables import TableState

_LONGEST_NAME = 255  # bytes, on every file system in use
_EMPTY = "part-empty.parquet"


def export_marts(
    ledger: Ledger,
    lake: Lake,
    marts: Iterable[Mart],
    as_of: datetime,
    progress: Callable[[str], None],
) -> None:
    """Export each built mart as it is, all of it or nothing; a current export is left alone.

    Data files never change, so they are linked or copied as they are. `progress` is called with
    each mart's name.
    """

    def prove() -> None:
        # A run that was stopped and wakes late must not replace new rows with old ones.
        with ledger.transaction():
            pass

    for mart in marts:
        table = mart_table(mart.name)
        version, state = lake.version(table), lake.state(table)
        if version is None or state is None:
            continue
        export = _export_of(mart, table, version, state, as_of)
        if lake.place.exported(export.folder) != export.mark:
            progress(mart.name)
            lake.place.export(export, lake.fence, prove)


def _export_of(mart: Mart, table: str, version: int, state: TableState, as_of: datetime) -> Export:
    parts = {_part(file.path): file for file in state.files}
    names = "\n".join(sorted(parts))
    said = {
        "mart": mart.name,
        "version": version,
        "rows": sum(file.rows for file in state.files),
        "parts": len(parts),
        "digest": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
    }
    return Export(
        folder=f"{as_of:%Y-%m-%d}/{mart.name}",
        table=table,
        parts=parts,
        # A folder without any Parquet is an error to most readers; an empty table is not.
        files={} if parts else {_EMPTY: _no_rows(state)},
        mark=json.dumps(said) + "\n",
    )


def _part(path: str) -> str:
    """Where a data file is exported: in its partitions' folders, except those that begin with `_`.

    What the folders leave out is in the name, so that no two files get the same name.
    """
    *folders, file = path.split("/")
    kept = [folder for folder in folders if not folder.startswith("_")]
    values = [folder.partition("=")[2] for folder in folders if folder.startswith("_")]
    name = "-".join(["part", *values, file])
    if len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        name = f"part-{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()}.parquet"
    return "/".join([*kept, name])


def _no_rows(state: TableState) -> bytes:
    import pyarrow.parquet as pq

    from retailmart.database.values import schema_of

    fields = [
        field
        for field in state.fields
        if not (field.name in state.partition_by and field.name.startswith("_"))
    ]
    content = BytesIO()
    schema = schema_of([field.name for field in fields], [field.type for field in fields])
    pq.write_table(schema.empty_table(), content)
    return content.getvalue()
