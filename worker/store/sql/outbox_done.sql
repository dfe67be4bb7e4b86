-- The broker has confirmed these. Uses outbox_pkey.
delete from outbox where seq in (select i.seq from {rows seq bigint})
