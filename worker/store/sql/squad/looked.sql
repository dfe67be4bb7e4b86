-- SQUAD's poll leaves a test job alone for its interval after this. Uses ci_testjob_pkey.
update public.ci_testjob set last_fetch_attempt = to_timestamp({now} / 1000.0) from {rows pk bigint}
where ci_testjob.id = i.pk and not ci_testjob.fetched
returning ci_testjob.id
