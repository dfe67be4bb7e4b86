-- What runs in these pods, oldest first, with the test job that it is for; at most 1000. Uses tasks_running, runs_task.
select workers.id as worker, tasks.id, tasks.name, tasks.queue, tasks.epoch, tasks.started_at, tasks.checkpoint_at, tasks.progress,
  (select testjobs.backend || '/' || testjobs.remote_id from runs join testjobs on testjobs.id = runs.testjob
   where runs.task_id = tasks.id order by runs.id desc limit 1) as testjob
from {rows host text} join workers on workers.host = i.host
join tasks on tasks.worker = workers.id and tasks.state = 'running'
order by tasks.started_at, tasks.id limit 1000
