"""A DuckDB engine that spreads work as a cluster does: work travels, and several parts run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from retailmart.engines import Item, Result, Work
from retailmart.engines.duckdb import DuckDBEngine


class SideBySide(DuckDBEngine):
    """Each item of a `spread` is pickled with its work, as for another machine.

    `works` are all works that were spread; `around` can be set to do something else with one.
    """

    parallelism = 4

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.works: list[object] = []
        self.around: Callable[[Callable[[Any], Any], Any], Any] = lambda work, item: work(item)

    def spread(
        self, work: Work[Item, Result], items: Sequence[Item], sizes: Sequence[int]
    ) -> list[Result]:
        assert len(items) == len(sizes)
        self.works.append(work)

        def done(item: Item) -> bytes:
            there, its_item = pickle.loads(pickle.dumps((work, item)))
            return pickle.dumps(self.around(lambda given: there(self, given), its_item))

        with ThreadPoolExecutor(self.parallelism) as pool:
            return [pickle.loads(result) for result in pool.map(done, items)]
