-- A fetch that failed, as SQUAD counts it: `final` ones are not tried again. Uses ci_testjob_pkey.
update public.ci_testjob set failure = i.failure, fetched = (i.final = 1), fetch_attempts = ci_testjob.fetch_attempts + 1,
  last_fetch_attempt = to_timestamp({now} / 1000.0)
from {rows pk bigint, failure text, final bigint}
where ci_testjob.id = i.pk and not ci_testjob.fetched
returning ci_testjob.id
