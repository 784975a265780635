"""Queries of several steps, sent to the engine together.

On a cluster, a round of tasks costs more than most answers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from retailmart.engines import Engine
from retailmart.errors import OF_THE_RUN, RetailmartError

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
S = TypeVar("S")
Answer = list[tuple[Any, ...]]
# A step that yields all its queries at once, receives the rows of each, and returns its result.
Asking = Generator[Sequence[str], Sequence[Answer], A]


def together(
    engine: Engine, one: Asking[A], two: Asking[B], three: Asking[C], four: Asking[D]
) -> tuple[A, B, C, D]:
    """The results of four steps, whose queries are answered in one round.

    The steps continue in their order, so that the first one's error is raised. If not all queries
    can be answered, each step is answered alone, or gets the error.
    """
    asked = [list(next(step)) for step in (one, two, three, four)]
    try:
        answers = iter(engine.rows_of([query for queries in asked for query in queries]))
    except OF_THE_RUN:
        raise
    except RetailmartError:
        first, second, third, fourth = (_answered(engine, queries) for queries in asked)
    else:
        first, second, third, fourth = ([next(answers) for _ in queries] for queries in asked)
    return sent(one, first), sent(two, second), sent(three, third), sent(four, fourth)


def answers_of(engine: Engine, queries: Sequence[str]) -> list[Answer | RetailmartError]:
    """The rows of each query, asked together if none fails; or why it has none.

    Raises errors of the whole run.
    """
    found = _answered(engine, queries)
    if not isinstance(found, RetailmartError):
        return [*found]
    alone = (_answered(engine, [query]) for query in queries)
    return [one if isinstance(one, RetailmartError) else one[0] for one in alone]


def _answered(engine: Engine, queries: Sequence[str]) -> list[Answer] | RetailmartError:
    try:
        return engine.rows_of(queries)
    except OF_THE_RUN:
        raise
    except RetailmartError as error:
        return error


def sent(step: Generator[Any, S, A], answer: S | RetailmartError) -> A:
    """The result of a step that waits for an answer: resumed with it, or with why there is none."""
    try:
        if isinstance(answer, RetailmartError):
            step.throw(answer)
        else:
            step.send(answer)
    except StopIteration as done:
        result: A = done.value
        return result
    raise AssertionError("a step asks once")
