-- about: how full each location is, and which part of its products has run out there
-- refresh: full
-- key: [location_id]
-- publish: true
-- snapshot: true
-- chart: {kind: table, page: Inventory, place: 5, title: Warehouses, columns: [warehouse_code, city, country, capacity, stock, utilization, products, out_of_stock_products], order: -utilization}
WITH products_there AS (
    SELECT location_id, product_id, sum(quantity) AS quantity
    FROM product_inventory
    WHERE location_id IS NOT NULL
    GROUP BY location_id, product_id
),
stocks AS (
    SELECT
        location_id,
        coalesce(sum(quantity), 0) AS stock,
        count(product_id) AS products,
        count(product_id) FILTER (WHERE coalesce(quantity, 0) <= 0) AS out_of_stock_products
    FROM products_there
    GROUP BY location_id
),
-- FULL JOIN: an empty location is shown, and so is stock at a place that nobody has described.
places AS (
    SELECT
        coalesce(l.location_id, s.location_id) AS location_id,
        l.warehouse_code,
        l.city,
        l.country,
        l.capacity,
        coalesce(s.stock, 0) AS stock,
        coalesce(s.products, 0) AS products,
        coalesce(s.out_of_stock_products, 0) AS out_of_stock_products
    FROM inventory_locations l
    FULL JOIN stocks s ON s.location_id = l.location_id
),
-- In millionths, as whole numbers: dividing decimals gives a float, which is not half-up.
in_millionths AS (
    SELECT
        *,
        CAST(CAST(stock AS DECIMAL(32, 6)) * 1000000 AS HUGEINT) AS _stock,
        CAST(CAST(capacity AS DECIMAL(32, 6)) * 1000000 AS HUGEINT) AS _capacity
    FROM places
)
SELECT
    location_id,
    warehouse_code,
    city,
    country,
    capacity,
    stock,
    CASE
        WHEN _capacity > 0
            THEN CAST(
                CAST(
                    CAST(sign(_stock) AS HUGEINT)
                    * ((20000 * abs(_stock) + _capacity) // (2 * _capacity)) AS DECIMAL(34, 0)
                ) * 0.0001 AS DECIMAL(38, 4)
            )
    END AS utilization,
    products,
    out_of_stock_products
FROM in_millionths
