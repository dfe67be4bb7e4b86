-- Embedded broker: who holds messages. Uses messages_taken.
select distinct consumer as id from messages where consumer is not null and {any}
