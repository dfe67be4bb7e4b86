-- The fence of everything a leader writes. Uses leaders_pkey.
update leaders set term = leaders.term from {rows name text, worker text, term bigint}
where leaders.name = i.name and leaders.worker = i.worker and leaders.term = i.term
returning leaders.term
