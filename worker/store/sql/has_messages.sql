-- Embedded broker: whether a look is worth a write. Uses messages_ready.
select 1 as one from {rows queue text} where exists (select 1 from messages where messages.queue = i.queue and messages.consumer is null) limit 1
