-- Tasks whose time has come. Uses tasks_due.
update tasks set state = case when tasks.expires_at <= {now} then 'expired' else 'queued' end, rung_at = {now},
  ended_at = case when tasks.expires_at <= {now} then {now} end,
  reason = case when tasks.expires_at <= {now} then 'it had expired before it was due' else tasks.reason end
from (select t.id as id from tasks t where t.state = 'waiting' and t.run_at <= {now} and {any} order by t.run_at limit 500) as ripe
where tasks.id = ripe.id and tasks.state = 'waiting'
returning tasks.id, tasks.state, tasks.links
