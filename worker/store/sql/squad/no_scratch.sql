-- Scratch rows of builds in which nothing is being finished. Uses core_pluginscratch_build_id, ci_testjob_target_build_id.
delete from public.core_pluginscratch s where not exists (select 1 from public.ci_testjob t
  where t.target_build_id = s.build_id and t.fetched and t.job_status = 'Fetching') and {any}
returning s.id
