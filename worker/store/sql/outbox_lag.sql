-- For how long the oldest message that nobody published in time is overdue, in milliseconds. Uses outbox_held.
select coalesce({now} - min(outbox.held_until), 0) as lag from outbox where {any}
