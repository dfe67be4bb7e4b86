-- What ended workers held may run again, or is a dead letter when it has ended too many, or canceled if somebody asked
-- for that. Uses tasks_running.
update tasks set worker = null, crashes = tasks.crashes + 1, rung_at = {now}, cancel = 0,
  state = case when tasks.cancel = 1 then 'canceled' when tasks.once = 1 or tasks.crashes + 1 >= i.crash_limit then 'dead' else 'queued' end,
  ended_at = case when tasks.cancel = 1 or tasks.once = 1 or tasks.crashes + 1 >= i.crash_limit then {now} end,
  reason = case when tasks.cancel = 1 then 'canceled by hand' when tasks.once = 1 then 'its worker died while it ran, and it is never run again by itself' when tasks.crashes + 1 >= i.crash_limit
    then 'its worker died ' || (tasks.crashes + 1) || ' times while it ran (limit ' || i.crash_limit || ')' end
from {rows crash_limit bigint}, (select t.id as id from workers w join tasks t on t.worker = w.id and t.state = 'running'
  where w.state in ('lost', 'stopped') limit 500) as gone
where tasks.id = gone.id and tasks.state = 'running'
returning tasks.id, tasks.name, tasks.queue, tasks.state, tasks.links
