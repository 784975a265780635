-- about: each product at each location, how full its place is, and what to do about it
-- refresh: full
-- key: [product_id, location_id]
-- publish: true
-- snapshot: true
-- variables: {restock_below: 0.2, overstocked_above: 0.8}  # parts of the capacity
-- chart:
--   - {kind: bar, page: Inventory, place: 5, title: Health by warehouse, x: warehouse_code, by: status, total: count}
--   - {kind: table, page: Inventory, place: 5, title: Restock list, columns: [product, warehouse_code, quantity, capacity, suggested_quantity], where: status = 'restock', order: -suggested_quantity, top: 20}
WITH slots AS (
    -- A slot's own capacity is a column that not every shop has. SQL looks for a name in the inner
    -- query first: `capacity` is the slot's there, or else the NULL beside it.
    SELECT s.*
    FROM (SELECT CAST(NULL AS BIGINT) AS capacity) AS otherwise
    CROSS JOIN LATERAL (
        SELECT product_id, location_id, quantity, last_updated, capacity
        FROM product_inventory
    ) AS s
),
places AS (
    SELECT
        s.product_id,
        s.location_id,
        sum(s.quantity) AS quantity,
        -- Their own capacities, where all slots of the product have one; else the location's, once.
        CASE
            WHEN count(s.capacity) = count(*) THEN sum(s.capacity)
            ELSE max(l.capacity)
        END AS capacity,
        max(CAST(s.last_updated AS TIMESTAMPTZ)) AS last_updated
    FROM slots s
    LEFT JOIN inventory_locations l ON l.location_id = s.location_id
    WHERE s.product_id IS NOT NULL AND s.location_id IS NOT NULL
    GROUP BY s.product_id, s.location_id
),
measured AS (
    SELECT
        *,
        -- In millionths, as whole numbers: dividing decimals gives a float, which is not half-up.
        CAST(CAST(quantity AS DECIMAL(32, 6)) * 1000000 AS HUGEINT) AS filled,
        CASE
            WHEN capacity > 0 THEN CAST(CAST(capacity AS DECIMAL(32, 6)) * 1000000 AS HUGEINT)
        END AS room,
        -- Whole days; a count dated into the future is as good as one of today.
        CASE
            WHEN last_updated > getvariable('as_of') THEN 0
            ELSE date_diff('microsecond', last_updated, getvariable('as_of')) // 86400000000
        END AS days_since_update
    FROM places
)
SELECT
    m.product_id,
    m.location_id,
    p.name AS product,
    l.warehouse_code,
    l.city,
    l.country,
    m.quantity,
    m.capacity,
    CAST(
        CAST(
            CAST(sign(m.filled) AS HUGEINT)
            * ((20000 * abs(m.filled) + m.room) // (2 * m.room)) AS DECIMAL(34, 0)
        ) * 0.0001 AS DECIMAL(38, 4)
    ) AS utilization,
    CAST(m.days_since_update AS INTEGER) AS days_since_update,
    -- Half full and counted today is worth 100: (1 - |filled / room - 0.5| * 2) * 100 - 2 * days.
    CASE
        WHEN m.filled IS NOT NULL AND m.room > 0 AND m.days_since_update IS NOT NULL
            THEN CAST(
                CAST(
                    greatest(
                        (2000000 * (m.room - abs(2 * m.filled - m.room)) + m.room) // (2 * m.room)
                        - 20000 * m.days_since_update,
                        0
                    ) AS DECIMAL(18, 0)
                ) * 0.0001 AS DECIMAL(7, 4)
            )
    END AS inventory_score,
    CASE
        WHEN m.capacity IS NULL OR m.capacity <= 0 THEN 'no capacity'
        WHEN m.quantity IS NULL THEN 'no quantity'
        WHEN CAST(m.filled AS DOUBLE) / m.room < getvariable('restock_below') THEN 'restock'
        WHEN CAST(m.filled AS DOUBLE) / m.room > getvariable('overstocked_above') THEN 'overstocked'
        ELSE 'ok'
    END AS status,
    CASE
        WHEN m.filled IS NOT NULL AND m.room > 0
            THEN CAST(greatest((m.room + 1999999) // 2000000 - m.quantity, 0) AS BIGINT)
    END AS suggested_quantity
FROM measured m
LEFT JOIN products p ON p.product_id = m.product_id
LEFT JOIN inventory_locations l ON l.location_id = m.location_id
