-- about: every sale with its customer as of that day
-- refresh: append
-- partitions: [_month]
-- balance: {sales: total_cost}
-- publish: false
-- chart: false
SELECT
    s.customer_id,
    c.first_name,
    c.last_name,
    c.address,
    c.pincode,
    c.phone_number,
    s.sales_date,
    s.total_cost,
    s.additional_column,
    s._file_id,
    s._month
FROM sales s
LEFT JOIN customer_history c ON c.customer_id = s.customer_id
    AND s.sales_date >= c._valid_from
    AND (s.sales_date < c._valid_to OR c._valid_to = DATE '9999-12-31')  -- which is for ever
