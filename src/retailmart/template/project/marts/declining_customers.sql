-- about: customers who bought less in the last month that has ended than in the month before
-- refresh: full
-- key: [customer_id]
-- publish: true
-- snapshot: true
-- variables: {declining_threshold_percent: 0}
-- chart: {kind: table, page: Declining customers, place: 3, title: Customers who buy less, columns: [customer_id, first_name, last_name, previous_total, monthly_total, change, change_percent, months_falling], order: change, top: 20}
WITH months AS (
    SELECT
        customer_id,
        monthly_total,
        year * 12 + month - 1 AS number  -- counts calendar months, so that the one before is - 1
    FROM customer_monthly_purchase
    WHERE _month < strftime(getvariable('as_of'), '%Y-%m')
),
newest AS (
    SELECT max(number) AS number FROM months
),
compared AS (
    SELECT
        m.customer_id,
        sum(CASE WHEN m.number = n.number THEN m.monthly_total ELSE 0 END) AS monthly_total,
        sum(CASE WHEN m.number = n.number - 1 THEN m.monthly_total ELSE 0 END) AS previous_total
    FROM months m
    INNER JOIN newest n ON m.number BETWEEN n.number - 1 AND n.number
    GROUP BY m.customer_id
),
fallen AS (
    SELECT
        *,
        CAST((previous_total - monthly_total) * 100 AS HUGEINT) AS fall_cents,
        nullif(CAST(abs(previous_total) * 100 AS HUGEINT), 0) AS base_cents
    FROM compared
    WHERE (previous_total - monthly_total) * 100
        > abs(previous_total) * getvariable('declining_threshold_percent')
        AND monthly_total < previous_total
),
first_months AS (
    SELECT m.customer_id, min(m.number) AS number
    FROM months m
    SEMI JOIN fallen f ON f.customer_id = m.customer_id
    GROUP BY m.customer_id
),
-- Every calendar month since the customer's first, those without purchases as 0.
calendar AS (
    SELECT f.customer_id, unnest(range(f.number, n.number + 1)) AS number
    FROM first_months f
    CROSS JOIN newest n
),
history AS (
    SELECT
        k.customer_id,
        k.number,
        coalesce(m.monthly_total, 0) < coalesce(
            lag(coalesce(m.monthly_total, 0)) OVER (PARTITION BY k.customer_id ORDER BY k.number),
            0
        ) AS fell
    FROM calendar k
    LEFT JOIN months m ON m.customer_id = k.customer_id AND m.number = k.number
),
lasting AS (
    SELECT
        customer_id,
        max(number) - coalesce(
            max(CASE WHEN NOT fell THEN number END),
            min(number) - 1
        ) AS months_falling
    FROM history
    GROUP BY customer_id
)
SELECT
    f.customer_id,
    c.first_name,
    c.last_name,
    CAST(n.number // 12 AS INTEGER) AS year,
    CAST(n.number % 12 + 1 AS INTEGER) AS month,
    CAST(f.monthly_total AS DECIMAL(18, 2)) AS monthly_total,
    CAST(f.previous_total AS DECIMAL(18, 2)) AS previous_total,
    CAST(f.monthly_total - f.previous_total AS DECIMAL(18, 2)) AS change,
    -- In whole cents and half-up, since dividing decimals gives a float. NULL where the month before
    -- came to nothing: there is no percentage of 0.
    CAST(
        CAST(-((f.fall_cents * 20000 + f.base_cents) // (2 * f.base_cents)) AS DECIMAL(36, 0))
        * 0.01 AS DECIMAL(38, 2)
    ) AS change_percent,
    CAST(l.months_falling AS INTEGER) AS months_falling
FROM fallen f
CROSS JOIN newest n
INNER JOIN lasting l ON l.customer_id = f.customer_id
LEFT JOIN customer c ON c.customer_id = f.customer_id
