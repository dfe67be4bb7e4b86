-- Nobody will count these down any more. Uses ci_testjob_pkey.
update public.ci_testjob set subtasks_count = 0 from {rows pk bigint}
where ci_testjob.id = i.pk and ci_testjob.fetched and ci_testjob.job_status = 'Fetching'
returning ci_testjob.id
