-- Embedded broker: given back. Uses messages_pkey.
update messages set consumer = null, redelivered = 1 from {rows seq bigint, consumer text}
where messages.seq = i.seq and messages.consumer = i.consumer
