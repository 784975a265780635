"""The stories of a retail project: which feeds, tables and marts belong to tills, webshop, markets.

A mart reads only what its own story has, so that each story works without the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from retailmart.errors import SettingsError
from retailmart.project.documents import did_you_mean


@dataclass(frozen=True)
class Story:
    """A part of a retailer, and what a project has for it."""

    name: str
    feeds: tuple[str, ...]
    tables: tuple[str, ...]
    marts: tuple[str, ...]

    @property
    def files(self) -> frozenset[str]:
        """Its files, as paths below the project folder."""
        return frozenset(
            [
                *(f"feeds/{name}.yml" for name in self.feeds),
                *(f"tables/{name}.yml" for name in self.tables),
                *(f"marts/{name}.sql" for name in self.marts),
            ]
        )


_ALL = (
    Story(
        "tills",
        feeds=("sales",),
        tables=("customer", "store", "product", "sales_team"),
        marts=(
            *("customer_mart", "sales_mart", "customer_monthly_purchase"),
            *("sales_team_incentive", "declining_customers"),
        ),
    ),
    Story(
        "webshop",
        feeds=(),
        tables=(
            *("customers", "products", "orders", "order_items"),
            *("inventory_locations", "product_inventory"),
        ),
        marts=(
            *("inventory_analytics", "warehouse_utilization", "inventory_turnover"),
            *("order_analytics", "peak_hours", "customer_segments"),
        ),
    ),
    Story(
        "markets",
        feeds=("orders_export", "deliveries_export", "users_export"),
        tables=(),
        marts=(
            *("market_orders", "market_order_totals", "market_users", "market_deliveries"),
            *("market_metrics", "market_user_totals", "market_category_metrics"),
            *("market_merchant_metrics", "market_payment_metrics"),
        ),
    ),
)
STORIES = {story.name: story for story in _ALL}


def stories_named(names: Iterable[str]) -> tuple[Story, ...]:
    """The stories of these names, each once. SettingsError for unknown names, and for none."""
    wanted = list(dict.fromkeys(names))
    hint = f"Write one or more of: {', '.join(STORIES)}"
    if not wanted:
        raise SettingsError(["no part of a shop is named"], hint)
    unknown = [name for name in wanted if name not in STORIES]
    if unknown:
        message = [f"there is no part {name!r}{did_you_mean(name, STORIES)}" for name in unknown]
        raise SettingsError(message, hint)
    return tuple(story for name, story in STORIES.items() if name in wanted)
