-- SQUAD has heard of these, or nobody can tell it any more. Uses squad_exports_told, ci_testjob_pkey.
update squad_exports set told_at = null from {rows before bigint}
where squad_exports.told_at < i.before and not exists (select 1 from public.ci_testjob t
  where t.id = squad_exports.pk and t.fetched and t.job_status = 'Fetching')
