-- Embedded broker: messages nobody holds. Uses messages_ready.
select count(*) as number from {rows queue text} join messages on messages.queue = i.queue and messages.consumer is null
