-- about: what each customer bought in each month
-- refresh: months
-- partitions: [_month]
-- key: [_month, customer_id]
-- balance: {sales: monthly_total}
-- publish: true
-- snapshot: true
-- chart: {kind: bar, page: Customers, place: 4, title: Best customers, x: customer_id, y: monthly_total}
WITH totals AS (
    SELECT
        _month,
        customer_id,
        CAST(sum(total_cost) AS DECIMAL(18, 2)) AS monthly_total
    FROM sales
    GROUP BY _month, customer_id
)
SELECT
    m.customer_id,
    c.first_name,
    c.last_name,
    CAST(left(m._month, 4) AS INTEGER) AS year,
    CAST(right(m._month, 2) AS INTEGER) AS month,
    m.monthly_total,
    m._month
FROM totals m
LEFT JOIN customer c ON c.customer_id = m.customer_id
