-- about: each market's orders and revenue, by currency
-- refresh: full
-- key: [market, currency]
-- publish: true
-- chart: {kind: table, page: Markets, place: 8, title: Markets by currency, columns: [market, currency, orders, users, revenue, avg_order_value, avg_hours_to_deliver]}
WITH totals AS (
    SELECT
        market,
        currency,
        count(*) AS orders,
        count(DISTINCT user_id) AS users,
        CAST(sum(order_total) AS DECIMAL(38, 2)) AS revenue,
        sum(date_diff('microsecond', order_time, delivery_time)) AS delivery_microseconds,
        count(date_diff('microsecond', order_time, delivery_time)) AS timed_orders,
        sum(lines) AS _lines,
        CAST(sum(lines_total) AS DECIMAL(38, 2)) AS _lines_revenue
    FROM market_order_totals
    GROUP BY market, currency
),
in_cents AS (
    SELECT *, CAST(revenue * 100 AS HUGEINT) AS cents FROM totals
)
SELECT
    market,
    currency,
    orders,
    users,
    revenue,
    -- In whole cents and half-up, since dividing decimals gives a float.
    CAST(
        CAST(
            CAST(sign(cents) AS HUGEINT) * ((2 * abs(cents) + orders) // (2 * orders))
            AS DECIMAL(36, 0)
        ) * 0.01 AS DECIMAL(38, 2)
    ) AS avg_order_value,
    CASE
        WHEN timed_orders > 0
            -- To four digits, half-up: 360,000 microseconds are a ten-thousandth of an hour.
            THEN CAST(
                CAST(
                    CAST(sign(delivery_microseconds) AS HUGEINT)
                    * (
                        (2 * abs(delivery_microseconds) + timed_orders * 360000)
                        // (2 * timed_orders * 360000)
                    ) AS DECIMAL(30, 0)
                ) * 0.0001 AS DECIMAL(18, 4)
            )
    END AS avg_hours_to_deliver,
    _lines,
    _lines_revenue
FROM in_cents
