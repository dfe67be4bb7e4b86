-- A test job that a producer announced; one that is known already stays as it is, and is no answer if it is another
-- project's or build's. Uses testjobs_backend_remote_id_key.
insert into testjobs (backend, remote_id, project, build, environment, state, visible, wanted, created_at)
select i.backend, i.remote_id, i.project, i.build, i.environment, 'submitted', 0, 1, {now}
from {rows backend text, remote_id text, project text, build text, environment text}
where true
on conflict (backend, remote_id) do update set backend = excluded.backend
where testjobs.project = excluded.project and testjobs.build = excluded.build
returning id
