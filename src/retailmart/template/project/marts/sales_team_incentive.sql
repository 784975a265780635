-- about: what each salesperson sold in each store and month; the top seller earns the incentive
-- refresh: months
-- partitions: [_month]
-- key: [_month, store_id, sales_person_id]
-- balance: {sales: total_sales}
-- publish: true
-- snapshot: true
-- variables: {incentive_rate: 0.01, incentive_scope: store}  # scope: store, or company
-- chart:
--   - {kind: line, page: Sales, place: 1, title: Sales by month and store, x: _month, y: total_sales, by: store_id}
--   - {kind: bar, page: Sales, place: 1, title: Sales by store, x: store_id, y: total_sales}
--   - {kind: bar, page: Top sellers and incentives, place: 2, title: Sales by salesperson, x: sales_person_id, y: total_sales}
--   - {kind: table, page: Top sellers and incentives, place: 2, title: Highest incentives, columns: [_month, store_id, sales_person_id, first_name, last_name, total_sales, incentive], where: incentive > 0, order: -incentive}
WITH totals AS (
    SELECT
        _month,
        store_id,
        sales_person_id,
        CAST(sum(total_cost) AS DECIMAL(18, 2)) AS total_sales
    FROM sales
    GROUP BY _month, store_id, sales_person_id
),
reach AS (
    SELECT
        *,
        CASE
            WHEN getvariable('incentive_scope') = 'company'
                THEN sum(total_sales) OVER (PARTITION BY _month, sales_person_id)
            ELSE total_sales
        END AS reached
    FROM totals
),
ranked AS (
    SELECT
        *,
        CAST(_month || '-01' AS DATE) AS first_day,
        max(reached) OVER (
            PARTITION BY
                _month,
                CASE WHEN getvariable('incentive_scope') = 'company' THEN 0 ELSE store_id END
        ) AS top_reached
    FROM reach
)
SELECT
    r.store_id,
    r.sales_person_id,
    t.first_name,
    t.last_name,
    CAST(left(r._month, 4) AS INTEGER) AS year,
    CAST(right(r._month, 2) AS INTEGER) AS month,
    r.total_sales,
    -- Tied tops each earn the full rate; round() is half-up on decimals. The casts leave room for
    -- every digit of the product.
    CAST(
        CASE
            WHEN r.reached = r.top_reached
                THEN round(
                    CAST(r.total_sales AS DECIMAL(20, 2))
                    * CAST(variable_on('incentive_rate', r.first_day) AS DECIMAL(18, 16)),
                    2
                )
            ELSE 0
        END AS DECIMAL(18, 2)
    ) AS incentive,
    r._month
FROM ranked r
LEFT JOIN sales_team t ON t.id = r.sales_person_id
