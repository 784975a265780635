-- about: what each user of a market has ordered, by currency
-- refresh: full
-- key: [market, _user, currency]
-- publish: true
-- agrees: {market_metrics: {total_amount: revenue, orders: orders}}
-- chart: false
WITH totals AS (
    SELECT
        market,
        user_id,
        currency,
        count(*) AS orders,
        CAST(sum(order_total) AS DECIMAL(38, 2)) AS total_amount,
        min(order_time) AS first_order_at,
        max(order_time) AS last_order_at
    FROM market_order_totals
    GROUP BY market, user_id, currency
),
in_cents AS (
    SELECT *, CAST(total_amount * 100 AS HUGEINT) AS cents FROM totals
)
SELECT
    market,
    user_id,
    currency,
    orders,
    total_amount,
    -- In whole cents and half-up, since dividing decimals gives a float.
    CAST(
        CAST(
            CAST(sign(cents) AS HUGEINT) * ((2 * abs(cents) + orders) // (2 * orders))
            AS DECIMAL(36, 0)
        ) * 0.01 AS DECIMAL(38, 2)
    ) AS avg_order_value,
    first_order_at,
    last_order_at,
    -- Orders without a user are revenue too, and a key is never empty.
    coalesce(CAST(user_id AS VARCHAR), 'unknown') AS _user
FROM in_cents
