-- The backend's word on a test job. Its first generation is visible from now on, part by part. Uses testjobs_pkey.
update testjobs set state = 'postprocessing', status = i.status, name = i.name, url = i.url, reason = i.reason,
  environment = coalesce(i.environment, testjobs.environment), fetched_at = {now},
  visible = case when testjobs.visible = 0 then testjobs.wanted else testjobs.visible end
from {rows testjob bigint, status text, name text, url text, reason text, environment text}
where testjobs.id = i.testjob
returning testjobs.id
