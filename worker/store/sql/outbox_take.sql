-- Rows that nobody published in time, held now by whoever asked. Uses outbox_held.
update outbox set held_until = {now} + 2000
where seq in (select o.seq from outbox o where o.held_until <= {now} order by o.held_until limit 500
  --pg for update skip locked
) and {any}
returning seq, queue, priority, task
