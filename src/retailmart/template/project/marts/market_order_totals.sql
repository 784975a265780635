-- about: the markets' orders, each once, with its total; cancelled ones are left out
-- refresh: full
-- key: [market, order_id, currency]
-- publish: true
-- chart: false
SELECT
    market,
    order_id,
    currency,
    -- They are the order's and stand on each of its lines: any line will do, max() finds one.
    max(user_id) AS user_id,
    max(merchant_id) AS merchant_id,
    max(trim(payment_method)) AS payment_method,
    max(order_status) AS order_status,
    max(order_time) AS order_time,
    max(pickup_time) AS pickup_time,
    max(delivery_time) AS delivery_time,
    coalesce(max(order_total), 0) AS order_total,
    coalesce(max(sub_total), 0) AS sub_total,
    count(*) AS lines,
    CAST(coalesce(sum(quantity), 0) AS DECIMAL(18, 3)) AS quantity,
    CAST(coalesce(sum(total_price), 0) AS DECIMAL(38, 2)) AS lines_total
FROM market_orders
WHERE NOT _cancelled
-- By currency too: should an order's lines name two, they are still not added.
GROUP BY market, order_id, currency
