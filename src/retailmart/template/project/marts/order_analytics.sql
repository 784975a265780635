-- about: what each customer of the webshop has ordered, how much and when
-- refresh: full
-- key: [customer_id]
-- publish: true
-- snapshot: true
-- chart: {kind: table, page: Segments, place: 7, title: Best customers of the webshop, columns: [customer_id, total_orders, total_spent, avg_order_value, peak_order_hour], order: -total_spent}
WITH counted AS (
    SELECT
        customer_id,
        CAST(order_date AS TIMESTAMPTZ) AS ordered_at,
        CAST(total_amount AS DECIMAL(38, 2)) AS amount
    FROM orders
    WHERE customer_id IS NOT NULL
        AND coalesce(upper(trim(status)), '') NOT IN ('CANCELLED', 'CANCELED')
),
totals AS (
    SELECT
        customer_id,
        count(*) AS total_orders,
        CAST(coalesce(sum(amount), 0) AS DECIMAL(38, 2)) AS total_spent,
        min(ordered_at) AS first_order_at,
        max(ordered_at) AS last_order_at
    FROM counted
    GROUP BY customer_id
),
in_cents AS (
    SELECT *, CAST(total_spent * 100 AS HUGEINT) AS cents FROM totals
),
hours AS (
    SELECT customer_id, hour(ordered_at) AS order_hour, count(*) AS orders
    FROM counted
    WHERE ordered_at IS NOT NULL
    GROUP BY customer_id, hour(ordered_at)
),
peaks AS (
    SELECT customer_id, order_hour
    FROM hours
    QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY orders DESC, order_hour) = 1
)
SELECT
    t.customer_id,
    c.first_name,
    c.last_name,
    t.total_orders,
    t.total_spent,
    -- In whole cents and half-up, since dividing decimals gives a float.
    CAST(
        CAST(
            CAST(sign(t.cents) AS HUGEINT)
            * ((2 * abs(t.cents) + t.total_orders) // (2 * t.total_orders))
            AS DECIMAL(36, 0)
        ) * 0.01 AS DECIMAL(38, 2)
    ) AS avg_order_value,
    CAST(h.order_hour AS INTEGER) AS peak_order_hour,
    t.first_order_at,
    t.last_order_at,
    -- To four digits, half-up: 8,640,000 microseconds are a ten-thousandth of a day.
    CAST(
        CAST(
            (
                2 * CAST(date_diff('microsecond', t.first_order_at, t.last_order_at) AS HUGEINT)
                + 8640000 * greatest(t.total_orders - 1, 1)
            ) // (17280000 * greatest(t.total_orders - 1, 1)) AS DECIMAL(30, 0)
        ) * 0.0001 AS DECIMAL(18, 4)
    ) AS avg_days_between_orders
FROM in_cents t
LEFT JOIN peaks h ON h.customer_id = t.customer_id
LEFT JOIN customers c ON c.customer_id = t.customer_id
