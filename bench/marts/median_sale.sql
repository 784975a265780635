-- about: the middle sale of each product, by store and month
-- refresh: months
-- partitions: [_month]
SELECT
    store_id,
    product_name,
    CAST(median(total_cost) AS DECIMAL(14, 2)) AS median_cost,
    _month
FROM sales
GROUP BY ALL
