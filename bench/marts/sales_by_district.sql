-- about: what each store sold into each postal district, by where customers lived on that day
-- refresh: months
-- partitions: [_month]
SELECT
    s.store_id,
    left(c.pincode, 2) AS district,
    CAST(sum(s.total_cost) AS DECIMAL(18, 2)) AS total,
    s._month
FROM sales s
ASOF LEFT JOIN customer_history c ON c.customer_id = s.customer_id
    AND s.sales_date >= c._valid_from
GROUP BY ALL
