-- Waiting tasks that will have expired when their time has come; with a minute to spare for the command that says so. Uses tasks_due.
select t.id as id from tasks t
where t.state = 'waiting' and t.run_at <= {now} + 60000 and t.expires_at <= {now} + 60000 and {any}
order by t.run_at limit 1000
