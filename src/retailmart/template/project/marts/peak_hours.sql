-- about: the webshop's orders and revenue by weekday (1 is Monday) and hour, in UTC
-- refresh: full
-- key: [weekday, hour]
-- publish: true
-- snapshot: true
-- chart: {kind: heat, page: Peak hours, place: 6, title: Orders by weekday and hour, x: hour, by: weekday, y: orders}
WITH counted AS (
    SELECT
        CAST(order_date AS TIMESTAMPTZ) AS ordered_at,
        CAST(total_amount AS DECIMAL(38, 2)) AS amount
    FROM orders
    WHERE order_date IS NOT NULL
        AND coalesce(upper(trim(status)), '') NOT IN ('CANCELLED', 'CANCELED')
),
placed AS (
    SELECT
        -- Counted from the week's Monday: engines number weekdays each in its own way.
        date_diff('day', CAST(date_trunc('week', ordered_at) AS DATE), CAST(ordered_at AS DATE)) + 1
            AS weekday,
        hour(ordered_at) AS hour_of_day,
        amount
    FROM counted
)
SELECT
    CAST(weekday AS INTEGER) AS weekday,
    CAST(hour_of_day AS INTEGER) AS hour,
    count(*) AS orders,
    CAST(coalesce(sum(amount), 0) AS DECIMAL(38, 2)) AS revenue
FROM placed
GROUP BY weekday, hour_of_day
