-- about: each market's orders and revenue, by currency
-- refresh: full
-- key: [market, currency]
-- publish: true
WITH totals AS (
    SELECT
        market,
        currency,
        count(*) AS orders,
        count(DISTINCT user_id) AS users,
        CAST(sum(order_total) AS DECIMAL(18, 2)) AS revenue,
        sum(date_diff('microsecond', order_time, delivery_time)) AS delivery_microseconds,
        count(date_diff('microsecond', order_time, delivery_time)) AS timed_orders,
        sum(lines) AS _lines,
        CAST(sum(lines_total) AS DECIMAL(18, 2)) AS _lines_revenue
    FROM market_order_totals
    GROUP BY market, currency
),
in_cents AS (
    SELECT *, CAST(revenue * 100 AS BIGINT) AS cents FROM totals
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
            CAST(sign(cents) AS BIGINT) * ((2 * abs(cents) + orders) // (2 * orders))
            AS DECIMAL(18, 0)
        ) * 0.01 AS DECIMAL(18, 2)
    ) AS avg_order_value,
    CASE
        WHEN timed_orders > 0
            THEN CAST(
                CAST(delivery_microseconds AS DOUBLE) / (timed_orders * 3600000000)
                AS DECIMAL(18, 4)
            )
    END AS avg_hours_to_deliver,
    _lines,
    _lines_revenue
FROM in_cents
