-- about: what each store sold on each day of the week, a column a day
-- refresh: months
-- partitions: [_month]
SELECT *
FROM (
    PIVOT (SELECT _month, store_id, dayname(sales_date) AS day, total_cost FROM sales)
    ON day IN ('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday')
    USING CAST(sum(total_cost) AS DECIMAL(18, 2))
    GROUP BY _month, store_id
)
