-- about: what a sale of each product costs on average, by store and month
-- refresh: months
-- partitions: [_month]
SELECT
    store_id,
    product_name,
    CAST(avg(total_cost) AS DECIMAL(14, 2)) AS average_cost,
    CAST(avg(quantity) AS DECIMAL(9, 4)) AS average_quantity,
    _month
FROM sales
GROUP BY ALL
