-- Embedded broker: what dead consumers held. Uses messages_taken.
update messages set consumer = null, redelivered = 1 from {rows consumer text} where messages.consumer = i.consumer
returning messages.seq
