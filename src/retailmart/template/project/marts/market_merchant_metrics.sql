-- about: the orders of each merchant in a market, by currency
-- refresh: full
-- key: [market, currency, _merchant]
-- publish: true
-- agrees: {market_metrics: {revenue: revenue, orders: orders}}
-- chart: {kind: bar, page: Markets, place: 8, title: Revenue by merchant, x: merchant_id, y: revenue, per: currency}
SELECT
    market,
    currency,
    merchant_id,
    count(*) AS orders,
    CAST(sum(quantity) AS DECIMAL(18, 3)) AS quantity,
    CAST(sum(order_total) AS DECIMAL(38, 2)) AS revenue,
    -- Orders without a merchant are revenue too, and a key is never empty.
    coalesce(CAST(merchant_id AS VARCHAR), 'unknown') AS _merchant
FROM market_order_totals
GROUP BY market, currency, merchant_id
