-- What deaths left that belongs to no test job any more: test runs of test jobs without a link, and scratch rows of
-- builds in which nothing is being finished. Uses core_testrun_build_id_job_id_uniq, core_pluginscratch_build_id.
select (select count(*) from public.core_testrun r where exists (select 1 from public.ci_testjob t where t.target_build_id = r.build_id and t.job_id = r.job_id)
    and not exists (select 1 from public.ci_testjob o where o.testrun_id = r.id)) as runs,
  (select count(*) from public.core_pluginscratch s where not exists (select 1 from public.ci_testjob t
    where t.target_build_id = s.build_id and t.fetched and t.job_status = 'Fetching')) as scratch
where {any}
