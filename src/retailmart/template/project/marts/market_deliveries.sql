-- about: the markets' delivery tasks, each once, with its order's and its user's columns
-- refresh: full
-- key: [market, task_id]
-- publish: true
-- chart: false
WITH tasks AS (
    -- From the feeds rather than from market_orders and market_users: tasks are shown before the
    -- first order or user has come. In each the newest file counts, and a repaired row belongs to
    -- the file that it was refused in.
    SELECT *
    FROM deliveries_export
    -- Of one file's equals the order of their values decides: the same at each run.
    QUALIFY row_number() OVER (
        PARTITION BY market, task_id
        ORDER BY
            coalesce(CAST(split_part(_origin, '#', 1) AS INTEGER), _file_id) DESC, task_status,
            task_type, order_id, agent_id, distance_m, total_time_taken_min, rating, latitude,
            longitude, subtotal, payment_type, additional_column
    ) = 1
),
order_versions AS (
    SELECT
        *,
        upper(trim(order_status)) IN ('CANCELLED', 'CANCELED') AS cancelled,
        coalesce(CAST(split_part(_origin, '#', 1) AS INTEGER), _file_id) AS version
    FROM orders_export
),
newest_lines AS (
    SELECT *
    FROM order_versions
    QUALIFY version = max(version) OVER (PARTITION BY market, order_id)
),
-- One row an order, or its lines would multiply the tasks.
placed AS (
    SELECT
        market,
        order_id,
        max(order_status) AS order_status,
        max(trim(currency)) AS currency,
        -- An order that was cancelled has nothing to add to any sum.
        CASE WHEN NOT bool_or(cancelled) THEN max(order_total) END AS order_total,
        max(order_time) AS order_time,
        max(pickup_time) AS pickup_time,
        max(delivery_time) AS delivery_time,
        max(trim(payment_method)) AS payment_method,
        max(merchant_id) AS merchant_id,
        max(user_id) AS user_id
    FROM newest_lines
    GROUP BY market, order_id
),
users AS (
    SELECT *
    FROM users_export
    -- The same of one file's equals as in market_users.
    QUALIFY row_number() OVER (
        PARTITION BY market, user_id
        ORDER BY
            coalesce(CAST(split_part(_origin, '#', 1) AS INTEGER), _file_id) DESC, created_at DESC,
            last_used_platform, is_blocked, language, outstanding_amount, loyalty_points,
            number_of_employees, additional_column
    ) = 1
)
SELECT
    t.* EXCLUDE (_file_id, _origin),
    o.order_status,
    o.currency,
    o.order_total,  -- stands at each task of the order: never to be added up here
    o.order_time,
    o.pickup_time,
    o.delivery_time,
    o.payment_method,
    o.merchant_id,
    o.user_id,
    u.last_used_platform AS user_last_used_platform,
    u.is_blocked AS user_is_blocked,
    u.created_at AS user_created_at,
    u.language AS user_language,
    u.loyalty_points AS user_loyalty_points
FROM tasks t
LEFT JOIN placed o ON o.market = t.market AND o.order_id = t.order_id
LEFT JOIN users u ON u.market = o.market AND u.user_id = o.user_id
