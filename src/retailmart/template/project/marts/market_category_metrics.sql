-- about: the order lines of each category in a market, by currency
-- refresh: full
-- key: [market, currency, _category]
-- publish: true
-- agrees: {market_metrics: {revenue: _lines_revenue, lines: _lines}}
-- chart: {kind: bar, page: Markets, place: 8, title: Revenue by category, x: category, y: revenue, per: currency}
SELECT
    market,
    currency,
    coalesce(trim(category), 'unknown') AS category,
    count(*) AS lines,
    CAST(coalesce(sum(quantity), 0) AS DECIMAL(18, 3)) AS quantity,
    -- Of the lines: an order's total holds other categories too.
    CAST(coalesce(sum(total_price), 0) AS DECIMAL(38, 2)) AS revenue,
    -- A text may be longer than a database's key can be.
    CASE
        WHEN length(coalesce(trim(category), 'unknown')) > 100
            THEN left(coalesce(trim(category), 'unknown'), 60) || ' ' || md5(coalesce(trim(category), 'unknown'))
        ELSE coalesce(trim(category), 'unknown')
    END AS _category
FROM market_orders
WHERE NOT _cancelled
GROUP BY market, currency, coalesce(trim(category), 'unknown')
