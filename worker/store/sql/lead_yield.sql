-- The leader gives up its place at once. Uses leaders_pkey.
update leaders set lease_until = 0 from {rows name text, worker text} where leaders.name = i.name and leaders.worker = i.worker
