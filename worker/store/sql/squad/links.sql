-- Which known issues a test has. Uses core_test_test_run_id.
insert into public.core_test_known_issues (test_id, knownissue_id)
select c.id, k.id
from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
join public.core_testrun r on r.id = x.testrun
join public.core_test c on c.test_run_id = r.id and c.has_known_issues
join public.core_suitemetadata m on m.id = c.metadata_id
cross join lateral (select case when m.suite = '/' then m.name else m.suite || '/' || m.name end as full_name) n
join public.core_knownissue_environments l on l.environment_id = r.environment_id
join public.core_knownissue k on k.id = l.knownissue_id and k.active and case when k.test_name like '%*%'
  then n.full_name ~ ('^' || replace(regexp_replace(k.test_name, '([^[:alnum:]_*/])', '\\\1', 'g'), '*', '.*?'))
  else starts_with(n.full_name, k.test_name) end
on conflict do nothing
