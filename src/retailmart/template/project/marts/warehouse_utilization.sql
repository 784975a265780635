-- about: how full each location is, and which part of its products has run out there
-- refresh: full
-- key: [location_id]
-- publish: true
-- snapshot: true
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
)
-- FULL JOIN: an empty location is shown, and so is stock at a place that nobody has described.
SELECT
    coalesce(l.location_id, s.location_id) AS location_id,
    l.warehouse_code,
    l.city,
    l.country,
    l.capacity,
    coalesce(s.stock, 0) AS stock,
    CASE
        WHEN l.capacity > 0
            THEN CAST(CAST(coalesce(s.stock, 0) AS DOUBLE) / l.capacity AS DECIMAL(18, 4))
    END AS utilization,
    coalesce(s.products, 0) AS products,
    coalesce(s.out_of_stock_products, 0) AS out_of_stock_products
FROM inventory_locations l
FULL JOIN stocks s ON s.location_id = l.location_id
