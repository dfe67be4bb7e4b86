-- Tasks whose time has come. Uses tasks_due.
update tasks set state = case when tasks.expires_at <= {now} then 'expired' else 'queued' end, rung_at = {now},
  ended_at = case when tasks.expires_at <= {now} then {now} end,
  reason = case when tasks.expires_at <= {now} then 'it had expired before it was due' else tasks.reason end
where tasks.id in (select t.id from tasks t where t.state = 'waiting' and t.run_at <= {now} order by t.run_at limit 500)
  and tasks.state = 'waiting' and {any}
returning tasks.id, tasks.state
