-- The backend has not finished this test job. Uses testjobs_backend_remote_id_key.
update testjobs set state = 'submitted', status = i.status from {rows testjob bigint, status text}
where testjobs.id = i.testjob and testjobs.state = 'fetching'
