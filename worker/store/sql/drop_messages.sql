-- Embedded broker: acknowledged. Uses messages_pkey.
delete from messages where seq in (select i.seq from {rows seq bigint, consumer text} where i.consumer = messages.consumer)
