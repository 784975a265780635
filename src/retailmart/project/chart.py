"""`-- chart:` in a mart's header: what the report shows of the mart."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from pydantic import Field, model_validator

from retailmart.project.documents import Document


class ChartKind(Enum):
    """How a chart shows its figures. `table` draws nothing."""

    BAR = "bar"
    LINE = "line"
    HEAT = "heat"
    TABLE = "table"


class Total(Enum):
    """What becomes of the rows that one figure stands for."""

    SUM = "sum"
    MIN = "min"
    MAX = "max"
    COUNT = "count"


class Chart(Document):
    """One chart, or one table, of a mart. Columns are named as the mart has them."""

    kind: ChartKind = Field(description="bar, line, heat, or table: chosen rows without a chart.")
    title: str | None = Field(None, description="What it shows; default: made of its columns.")
    page: str | None = Field(
        None, description="The heading below which it stands; default: the mart's name."
    )
    place: int = Field(
        100, description="Headings stand in the order of their smallest `place`, then of marts."
    )
    x: str | None = Field(None, description="The column of the categories, months or hours.")
    y: str | None = Field(None, description="The column of the figures; not for total: count.")
    by: str | None = Field(
        None, description="A second column: a colour for each value, or the rows of a heat map."
    )
    per: str | None = Field(
        None, description="A chart for each value of this column, as for currencies."
    )
    total: Total = Field(
        Total.SUM, description="sum, min, max or count of the rows that share a figure."
    )
    where: str | None = Field(None, description="A condition in SQL; other rows are left out.")
    columns: list[str] = Field(default_factory=list, description="Of a table: its columns.")
    order: str | None = Field(
        None, description="Of a table: the column that sorts it, with - in front downwards."
    )
    top: int = Field(
        12,
        ge=1,
        le=100,
        description="So many categories, colours or rows; the rest of a sum is `others`.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Chart:
        if self.kind is ChartKind.TABLE:
            if not self.columns:
                raise ValueError("a table needs `columns`")
            return self
        counts = self.total is Total.COUNT
        if self.x is None or (self.y is None and not counts):
            raise ValueError(f"a {self.kind.value} chart needs `x` and `y`, or total: count")
        if self.kind is ChartKind.HEAT and self.by is None:
            raise ValueError("a heat map needs `by`, the column of its rows")
        return self


def charts_of(value: object) -> object:
    """A header's `chart:` as a list: false is none, one chart may stand alone."""
    if value is False:
        return []
    return [value] if isinstance(value, Mapping) else value
