-- The files that stand in SQUAD's storage. Uses squad_files_pkey.
insert into public.core_attachment (id, filename, length, test_run_id, mimetype, storage)
select f.attachment, left(f.filename, 1024), f.length, r.id, f.mimetype, f.path
from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
join public.core_testrun r on r.id = x.testrun
join runs p on p.testjob = x.testjob and p.generation = x.generation
join squad_files f on f.run = p.id
order by f.attachment
