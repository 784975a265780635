-- about: the markets' users, each as the newest file tells
-- refresh: full
-- key: [market, user_id]
-- publish: true
-- chart: false
WITH delivered AS (
    SELECT
        *,
        -- A repaired row belongs to the file that it was refused in.
        coalesce(CAST(split_part(_origin, '#', 1) AS INTEGER), _file_id) AS _version
    FROM users_export
)
-- All columns of the feed, so that one which comes to it comes here too.
SELECT * EXCLUDE (_file_id, _origin, _version)
FROM delivered
-- Of one file's equals the order of their values decides: the same at each run.
QUALIFY row_number() OVER (
    PARTITION BY market, user_id
    ORDER BY
        _version DESC, created_at DESC, last_used_platform, is_blocked, language,
        outstanding_amount, loyalty_points, number_of_employees, additional_column
) = 1
