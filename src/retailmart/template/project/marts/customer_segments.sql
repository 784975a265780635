-- about: how lately, how often and for how much each customer of the webshop has ordered
-- refresh: full
-- key: [customer_id]
-- publish: true
-- snapshot: true
-- variables: {vip_from_quintile: 4, active_from_quintile: 3}  # 5 is the best fifth
-- chart:
--   - {kind: bar, page: Segments, place: 7, title: Customers by segment, x: segment, total: count}
--   - {kind: bar, page: Segments, place: 7, title: Spent by segment, x: segment, y: monetary}
WITH measured AS (
    SELECT
        customer_id,
        count(*) AS frequency,
        CAST(coalesce(sum(CAST(total_amount AS DECIMAL(38, 2))), 0) AS DECIMAL(38, 2)) AS monetary,
        -- Whole days since the last order; one dated into the future is as good as one of today.
        CASE
            WHEN max(CAST(order_date AS TIMESTAMPTZ)) > getvariable('as_of') THEN 0
            ELSE date_diff(
                'microsecond', max(CAST(order_date AS TIMESTAMPTZ)), getvariable('as_of')
            ) // 86400000000
        END AS recency
    FROM orders
    WHERE customer_id IS NOT NULL
        AND coalesce(upper(trim(status)), '') NOT IN ('CANCELLED', 'CANCELED')
    GROUP BY customer_id
),
fifths AS (
    SELECT
        *,
        ntile(5) OVER (ORDER BY recency DESC NULLS FIRST, customer_id) AS by_recency,
        ntile(5) OVER (ORDER BY frequency, customer_id) AS by_frequency,
        ntile(5) OVER (ORDER BY monetary, customer_id) AS by_monetary
    FROM measured
),
-- Equals are of one fifth, the lower one: what a fifth means must not hang on a customer's number.
ranked AS (
    SELECT
        *,
        min(by_recency) OVER (PARTITION BY recency) AS recency_quintile,
        min(by_frequency) OVER (PARTITION BY frequency) AS frequency_quintile,
        min(by_monetary) OVER (PARTITION BY monetary) AS monetary_quintile
    FROM fifths
)
SELECT
    r.customer_id,
    c.first_name,
    c.last_name,
    CAST(r.recency AS INTEGER) AS recency,
    r.frequency,
    r.monetary,
    CAST(r.recency_quintile AS INTEGER) AS recency_quintile,
    CAST(r.frequency_quintile AS INTEGER) AS frequency_quintile,
    CAST(r.monetary_quintile AS INTEGER) AS monetary_quintile,
    CASE
        WHEN least(r.recency_quintile, r.frequency_quintile, r.monetary_quintile)
            >= getvariable('vip_from_quintile') THEN 'VIP'
        WHEN r.recency_quintile >= getvariable('active_from_quintile') AND r.frequency = 1
            THEN 'new'
        WHEN r.recency_quintile >= getvariable('active_from_quintile') THEN 'loyal'
        WHEN r.recency_quintile > 1 THEN 'at risk'
        ELSE 'lapsed'
    END AS segment
FROM ranked r
LEFT JOIN customers c ON c.customer_id = r.customer_id
