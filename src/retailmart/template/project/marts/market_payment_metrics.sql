-- about: the orders paid by each method in a market, by currency
-- refresh: full
-- key: [market, currency, _payment_method]
-- publish: true
-- agrees: {market_metrics: {revenue: revenue, orders: orders}}
-- chart: {kind: bar, page: Markets, place: 8, title: Revenue by payment method, x: payment_method, y: revenue, per: currency}
SELECT
    market,
    currency,
    coalesce(payment_method, 'unknown') AS payment_method,
    count(*) AS orders,
    CAST(sum(quantity) AS DECIMAL(18, 3)) AS quantity,
    CAST(sum(order_total) AS DECIMAL(38, 2)) AS revenue,
    -- A text may be longer than a database's key can be.
    CASE
        WHEN length(coalesce(payment_method, 'unknown')) > 100
            THEN left(coalesce(payment_method, 'unknown'), 60) || ' ' || md5(coalesce(payment_method, 'unknown'))
        ELSE coalesce(payment_method, 'unknown')
    END AS _payment_method
FROM market_order_totals
GROUP BY market, currency, coalesce(payment_method, 'unknown')
