-- Runs whose task was given up long ago, with the rows that nobody will see. Uses runs_staging.
select r.id, r.task_id from {rows before bigint, most bigint}
join runs r on r.state = 'staging' join tasks t on t.id = r.task_id
where t.state in ('dead', 'canceled', 'expired') and t.ended_at < i.before
  and (exists (select 1 from staged_tests s where s.run = r.id) or exists (select 1 from staged_metrics s where s.run = r.id)
    or exists (select 1 from staged_facts s where s.run = r.id) or exists (select 1 from staged_files s where s.run = r.id)
    or exists (select 1 from staged_data s where s.run = r.id))
order by r.id limit (select k.most from {rows:k most bigint})
