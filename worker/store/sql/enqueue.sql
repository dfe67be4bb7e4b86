-- New tasks; an id that is there already is left alone (enqueueing twice is once). One of a lane gets its place, of those that
-- `lanes/places` has just taken. Uses tasks_pkey.
insert into tasks (id, name, queue, priority, state, epoch, run_at, expires_at, created_at, rung_at, task, lane, place, on_failure, links, once)
select i.id, i.name, i.queue, i.priority,
  case when i.links = 1 and i.waits = 1 then 'blocked' when i.run_at > {now} then 'waiting' else 'queued' end, 0,
  i.run_at, i.expires_at, {now}, {now}, i.task, i.lane,
  case when i.lane is not null then (select l.next_place from lanes l where l.key = i.lane) - i.back end, i.on_failure, coalesce(i.links, 0), coalesce(i.once, 0)
from {rows id text, name text, queue text, priority bigint, run_at bigint, expires_at bigint, task text, lane text, back bigint, on_failure text, links bigint, waits bigint, once bigint}
where true
on conflict (id) do nothing
returning id, state
