-- Embedded broker: messages, ready.
insert into messages (queue, priority, content)
select i.queue, i.priority, i.content from {rows queue text, priority bigint, content text}
