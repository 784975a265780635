-- about: what was sold of each product lately, and how long its stock will last
-- refresh: full
-- key: [product_id]
-- publish: true
-- snapshot: true
-- variables: {turnover_window_days: 30}
-- chart: {kind: table, page: Inventory, place: 5, title: Shortest cover, columns: [product, units_sold, stock, turnover, days_of_cover], where: days_of_cover IS NOT NULL, order: days_of_cover}
WITH recent_orders AS (
    SELECT order_id
    FROM orders
    WHERE coalesce(upper(trim(status)), '') NOT IN ('CANCELLED', 'CANCELED')
        -- Neither older than the window nor dated after the run's moment.
        AND date_diff('microsecond', CAST(order_date AS TIMESTAMPTZ), getvariable('as_of')) >= 0
        AND date_diff('microsecond', CAST(order_date AS TIMESTAMPTZ), getvariable('as_of'))
        < CAST(getvariable('turnover_window_days') AS BIGINT) * 86400000000
),
sold AS (
    SELECT i.product_id, coalesce(sum(i.quantity), 0) AS units_sold
    FROM order_items i
    INNER JOIN recent_orders o ON o.order_id = i.order_id
    WHERE i.product_id IS NOT NULL
    GROUP BY i.product_id
),
-- FULL JOIN: what does not sell is shown, and so is what was sold and is no product any more.
stocked AS (
    SELECT
        coalesce(p.product_id, s.product_id) AS product_id,
        p.name AS product,
        coalesce(s.units_sold, 0) AS units_sold,
        p.stock_quantity AS stock
    FROM products p
    FULL JOIN sold s ON s.product_id = p.product_id
),
-- In millionths, as whole numbers: dividing decimals gives a float, which is not half-up.
in_millionths AS (
    SELECT
        *,
        CAST(CAST(units_sold AS DECIMAL(32, 6)) * 1000000 AS HUGEINT) AS _sold,
        CAST(CAST(stock AS DECIMAL(32, 6)) * 1000000 AS HUGEINT) AS _stock
    FROM stocked
)
SELECT
    product_id,
    product,
    units_sold,
    stock,
    -- NULL where nothing is in stock: there is no part of nothing.
    CASE
        WHEN _stock > 0
            THEN CAST(
                CAST(
                    CAST(sign(_sold) AS HUGEINT)
                    * ((20000 * abs(_sold) + _stock) // (2 * _stock)) AS DECIMAL(34, 0)
                ) * 0.0001 AS DECIMAL(38, 4)
            )
    END AS turnover,
    -- NULL where nothing was sold: it would last for ever.
    CASE
        WHEN _sold > 0 AND _stock IS NOT NULL
            THEN CAST(
                CAST(
                    (
                        20000 * greatest(_stock, 0)
                        * CAST(getvariable('turnover_window_days') AS BIGINT) + _sold
                    ) // (2 * _sold) AS DECIMAL(34, 0)
                ) * 0.0001 AS DECIMAL(38, 4)
            )
    END AS days_of_cover
FROM in_millionths
