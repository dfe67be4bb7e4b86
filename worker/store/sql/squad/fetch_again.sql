-- A stuck test job is to be collected anew; what is shown of it stays until the new results are whole. Uses ci_testjob_pkey.
update public.ci_testjob set fetched = false, fetch_attempts = 0, last_fetch_attempt = null, subtasks_count = 0
from {rows pk bigint}
where ci_testjob.id = i.pk and ci_testjob.fetched and ci_testjob.job_status = 'Fetching'
returning ci_testjob.id
