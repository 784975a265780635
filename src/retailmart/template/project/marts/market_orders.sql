-- about: the markets' order lines, of each order as its newest file tells it
-- refresh: full
-- key: [market, order_id, _line]
-- publish: true
-- chart: false
WITH delivered AS (
    SELECT
        *,
        -- A repaired row belongs to the file that it was refused in.
        coalesce(CAST(split_part(_origin, '#', 1) AS INTEGER), _file_id) AS _version
    FROM orders_export
),
newest AS (
    SELECT *
    FROM delivered
    QUALIFY _version = max(_version) OVER (PARTITION BY market, order_id)
)
-- All columns of the feed, so that one which comes to it comes here too.
SELECT
    * EXCLUDE (currency, _file_id, _origin, _version),
    -- A line without a currency is in that of its order.
    coalesce(
        trim(currency), max(trim(currency)) OVER (PARTITION BY market, order_id), 'unknown'
    ) AS currency,
    -- An order is cancelled with the first of its lines that says so.
    max(CASE WHEN upper(trim(order_status)) IN ('CANCELLED', 'CANCELED') THEN 1 ELSE 0 END)
        OVER (PARTITION BY market, order_id) = 1 AS _cancelled,
    CAST(
        row_number() OVER (
            PARTITION BY market, order_id
            ORDER BY sku, category, quantity, unit_price, total_price, additional_column, currency
        ) AS INTEGER
    ) AS _line
FROM newest
