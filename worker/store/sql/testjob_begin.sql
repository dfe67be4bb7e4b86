-- A test job is first heard of, or collected anew: a collected one only when asked for `again`, as the
-- generation after the one that readers see. Uses testjobs_backend_remote_id_key.
insert into testjobs (backend, remote_id, project, build, environment, state, visible, wanted, created_at)
select i.backend, i.remote_id, i.project, i.build, i.environment, 'fetching', 0, 1, {now}
from {rows backend text, remote_id text, project text, build text, environment text, again bigint}
where true order by i.backend, i.remote_id
on conflict (backend, remote_id) do update set
  state = case when testjobs.state in ('submitted', 'fetching')
      or testjobs.visible = testjobs.wanted and (select i.again from {rows backend text, remote_id text, again bigint} where i.backend = testjobs.backend and i.remote_id = testjobs.remote_id) = 1
    then 'fetching' else testjobs.state end,
  wanted = case when testjobs.visible = testjobs.wanted and (select i.again from {rows backend text, remote_id text, again bigint} where i.backend = testjobs.backend and i.remote_id = testjobs.remote_id) = 1
    then testjobs.wanted + 1 else testjobs.wanted end
returning id, state, visible, wanted
