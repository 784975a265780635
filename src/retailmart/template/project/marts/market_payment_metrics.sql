-- about: the orders paid by each method in a market, by currency
-- refresh: full
-- key: [market, currency, payment_method]
-- publish: true
-- agrees: {market_metrics: {revenue: revenue, orders: orders}}
SELECT
    market,
    currency,
    coalesce(payment_method, 'unknown') AS payment_method,
    count(*) AS orders,
    CAST(sum(quantity) AS DECIMAL(18, 3)) AS quantity,
    CAST(sum(order_total) AS DECIMAL(18, 2)) AS revenue
FROM market_order_totals
GROUP BY market, currency, coalesce(payment_method, 'unknown')
