"""How the work on a mart can be cut: by rows, by the user's columns, by the keys it looks up.

All modules read the tree that DuckDB's json_serialize_sql gives of a query, and no data.
"""

from __future__ import annotations

from retailmart.marts.splitting.by_column import split_problem
from retailmart.marts.splitting.by_rows import row_by_row
from retailmart.marts.splitting.lookups import Lookup, lookups
from retailmart.marts.splitting.tree import CLOCKS, VOLATILE, nodes

__all__ = [
    "CLOCKS",
    "VOLATILE",
    "Lookup",
    "lookups",
    "nodes",
    "row_by_row",
    "split_problem",
]
