-- A build is as old as its oldest test run. Uses core_build_pkey.
update public.core_build set datetime = r.datetime from (
  select r.build_id, min(r.datetime) as datetime from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
  join public.core_testrun r on r.id = x.testrun group by r.build_id order by r.build_id
) r
where core_build.id = r.build_id and r.datetime < core_build.datetime
