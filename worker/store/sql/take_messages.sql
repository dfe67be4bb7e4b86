-- Embedded broker: the next messages of these queues become this consumer's. Uses messages_ready.
update messages set consumer = (select i.consumer from {rows consumer text} limit 1)
where seq in (select m.seq from messages m, {rows queue text, want bigint}
  where m.queue = i.queue and m.consumer is null
  order by m.priority desc, m.seq limit (select max(k.want) from {rows:k want bigint}))
  and consumer is null
returning seq, queue, content, redelivered
