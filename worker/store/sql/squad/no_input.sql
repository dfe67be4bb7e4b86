-- What the backend called back with about a test job is used once its results are shown, and not before. Uses
-- ci_resultsinput_test_job_id_key.
delete from public.ci_resultsinput c
using {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation
where c.test_job_id = x.pk and x.append = 0
returning c.id
