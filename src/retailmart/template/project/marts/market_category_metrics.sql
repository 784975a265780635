-- about: the order lines of each category in a market, by currency
-- refresh: full
-- key: [market, currency, category]
-- publish: true
-- agrees: {market_metrics: {revenue: _lines_revenue, lines: _lines}}
SELECT
    market,
    currency,
    coalesce(trim(category), 'unknown') AS category,
    count(*) AS lines,
    CAST(coalesce(sum(quantity), 0) AS DECIMAL(18, 3)) AS quantity,
    -- Of the lines: an order's total holds other categories too.
    CAST(coalesce(sum(total_price), 0) AS DECIMAL(18, 2)) AS revenue
FROM market_orders
WHERE NOT _cancelled
GROUP BY market, currency, coalesce(trim(category), 'unknown')
