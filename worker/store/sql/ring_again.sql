-- Tasks that could run and that nobody claimed for long: their message may be lost, so another is sent. Uses tasks_queued.
update tasks set rung_at = {now}
from (select t.id as id from {rows after bigint} join tasks t on t.state = 'queued' and t.rung_at < {now} - i.after
  order by t.rung_at limit 500) as quiet
where tasks.id = quiet.id and tasks.state = 'queued'
returning tasks.id, tasks.state
