-- The leader has done what this row asked for. No row back: another has. Uses outbox_pkey.
delete from outbox where seq in (select i.seq from {rows seq bigint})
returning seq
