-- The tickets of the service whose end is known, as a history: what they said, and what they turned out to be.
-- This is for SQLite. On PostgreSQL the moment is to_char(to_timestamp(s.created_at / 1e6) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"').
SELECT
    d.ticket_id AS id,
    d.subject,
    d.body,
    s.final_kind AS kind,
    s.final_department AS department,
    s.language,
    strftime('%Y-%m-%dT%H:%M:%SZ', s.created_at / 1000000, 'unixepoch') AS created_at,
    s.declared_kind,
    s.channel,
    s.customer_tier,
    s.country
FROM stories AS s
JOIN decisions AS d ON d.decision_id = s.decision_id
WHERE s.closed_at IS NOT NULL AND d.body IS NOT NULL
ORDER BY s.created_at
