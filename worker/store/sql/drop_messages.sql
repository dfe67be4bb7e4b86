-- Embedded broker: acknowledged, all by one consumer. Uses messages_pkey.
delete from messages where messages.seq in (select i.seq from {rows seq bigint})
  and messages.consumer in (select k.consumer from {rows:k consumer text})
