-- A test job that failed for a reason that the project wants tried again gets a successor, which SQUAD submits. Uses squad_exports_pkey.
with new as (
  insert into public.ci_testjob (backend_id, definition, target_id, target_build_id, environment, created_at, submitted, fetched, fetch_attempts,
    can_resubmit, resubmitted_count, parent_job_id, subtasks_count)
  select t.backend_id, t.definition, t.target_id, t.target_build_id, t.environment, to_timestamp({now} / 1000.0), false, false, 0,
    false, t.resubmitted_count + 1, t.id, 0
  from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation and x.resubmit = 1
  join public.ci_testjob t on t.id = x.pk and t.definition is not null
  returning id, parent_job_id
)
update squad_exports set resubmitted = new.id from new, {rows:k testjob bigint, generation bigint}
where squad_exports.testjob = k.testjob and squad_exports.generation = k.generation and squad_exports.pk = new.parent_job_id
returning squad_exports.resubmitted
