-- What SQUAD is to be told of this generation: the number of its test run is taken once, so that files can stand
-- under it before anybody can see it. Uses squad_exports_pkey, testjobs_backend_remote_id_key.
insert into squad_exports (testjob, generation, pk, testrun, clean, append)
select j.id, j.wanted, i.pk, coalesce(i.testrun, nextval(pg_get_serial_sequence('public.core_testrun', 'id'))), i.clean, case when i.testrun is null then 0 else 1 end
from {rows backend text, remote_id text, pk bigint, clean bigint, testrun bigint}
join testjobs j on j.backend = i.backend and j.remote_id = i.remote_id
where j.state = 'fetching'
on conflict (testjob, generation) do update set clean = greatest(squad_exports.clean, excluded.clean)
returning pk, testjob, testrun
