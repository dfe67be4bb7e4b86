-- These could not be published now; whoever relays next may try. Uses outbox_pkey.
update outbox set held_until = {now} + i.delay from {rows seq bigint, delay bigint} where outbox.seq = i.seq
