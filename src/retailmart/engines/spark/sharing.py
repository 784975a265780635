"""How much of a query's work one task gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from retailmart.engines import Cut
from retailmart.engines.spark.work import Months, Question
from retailmart.tables import TableState

# A task that reads less is not worth starting; more than a few tasks a core gain nothing.
LEAST, TASKS_A_CORE = 16 << 20, 2
# For a table's files, which are compressed; a mart's query produces more than it reads.
LEAST_OF_TABLES = 2 << 20


def tasks_for_files(size: int, cores: int) -> int:
    """The best number of tasks, at least 1, that read `size` bytes as they were delivered."""
    return max(1, min(size // LEAST, TASKS_A_CORE * cores))


def _share(total: int, cores: int) -> int:
    """The bytes of tables' files that each task should read, of `total` bytes."""
    tasks = min(total // LEAST_OF_TABLES, TASKS_A_CORE * cores)
    return max(total // max(tasks, 1), 1)


def size_of(months: Mapping[str, Mapping[str, TableState]]) -> int:
    """The bytes of months' own tables."""
    return Months(0, months).size


def shared_months(
    months: Mapping[str, Mapping[str, TableState]], cut: Cut | None, cores: int
) -> list[Months]:
    """Small months grouped, large months alone, or divided where that is allowed."""
    whole = {month: Months(0, {month: tables}) for month, tables in months.items()}
    share = _share(size_of(months), cores)
    items: list[Months] = []
    together: dict[str, Mapping[str, TableState]] = {}
    size = 0
    for month, one in whole.items():
        if cut is not None and one.size > 2 * max(share, LEAST_OF_TABLES):
            items += _parts_of_month(one, cut, one.size // max(share, LEAST_OF_TABLES))
            continue
        together[month] = months[month]
        size += one.size
        if size >= share:
            items.append(Months(0, together))
            together, size = {}, 0
    if together:
        items.append(Months(0, together))
    return [replace(item, number=number) for number, item in enumerate(items, 1)]


def _parts_of_month(whole: Months, cut: Cut, count: int) -> list[Months]:
    """A large month in `count` parts: by files of one of its tables, or by values of columns."""
    ((month, tables),) = whole.months.items()
    if cut.by_files is not None:
        table = tables[cut.by_files]
        files = sorted(table.files, key=lambda file: -file.size)
        groups = [files[number::count] for number in range(min(count, len(files)))]
        return [Months(0, {month: {**tables, cut.by_files: table.only(group)}}) for group in groups]
    if not cut.by_columns:
        return [whole]
    return [Months(0, whole.months, replace(cut, share=(number, count))) for number in range(count)]


def shared_questions(
    questions: Sequence[Question], sizes: Sequence[int], cores: int
) -> tuple[list[list[Question]], list[int]]:
    """Questions in groups of about the same size, with these sizes; apart if they have none."""
    share = _share(sum(sizes), cores)
    groups: list[list[Question]] = []
    filled: list[int] = []
    for question, size in sorted(zip(questions, sizes, strict=True), key=lambda one: one[1]):
        if not groups or filled[-1] >= share or (size and not filled[-1]):
            groups.append([])
            filled.append(0)
        groups[-1].append(question)
        filled[-1] += size
    return groups, filled
