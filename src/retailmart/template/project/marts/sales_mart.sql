-- about: every sale with its store and salesperson as of that day
-- refresh: append
-- partitions: [sales_month, store_id]
-- balance: {sales: total_cost}
-- publish: false
-- snapshot: true
-- chart: false
SELECT
    s.store_id,
    s.sales_person_id,
    t.first_name AS sales_person_first_name,
    t.last_name AS sales_person_last_name,
    st.store_manager_name,
    t.manager_id,
    t.is_manager,
    t.address AS sales_person_address,
    t.pincode AS sales_person_pincode,
    s.sales_date,
    s.total_cost,
    s.additional_column,
    s._file_id,
    s._month AS sales_month
FROM sales s
LEFT JOIN sales_team_history t ON t.id = s.sales_person_id
    AND s.sales_date >= t._valid_from
    AND (s.sales_date < t._valid_to OR t._valid_to = DATE '9999-12-31')  -- which is for ever
LEFT JOIN store_history st ON st.id = s.store_id
    AND s.sales_date >= st._valid_from
    AND (s.sales_date < st._valid_to OR st._valid_to = DATE '9999-12-31')
