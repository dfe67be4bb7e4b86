-- The project's suites that SQUAD has not met yet; those of its log parser have no metadata. Uses core_suitemetadata_kind_suite_name_uniq, core_suite_project_id_slug_uniq.
insert into public.core_suite (slug, project_id, metadata_id)
select s.suite, s.project, m.id
from (
  select t.target_id as project, n.suite, bool_or(r.part <> 'kernel-log') as is_named from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
  join runs r on r.testjob = x.testjob and r.generation = x.generation and (x.completed = 1 or r.part <> 'fetch')
  cross join lateral (select suite from staged_tests where run = r.id union select suite from staged_metrics where run = r.id) n
  group by t.target_id, n.suite
) s
left join public.core_suitemetadata m on s.is_named and m.kind = 'suite' and m.suite = s.suite and m.name = '-'
where not exists (select 1 from public.core_suite u where u.project_id = s.project and u.slug = s.suite)
order by s.project, s.suite
on conflict do nothing
