-- The same with what was called, as an application with result_extended keeps it. PostgreSQL only. Uses its unique task_id.
insert into public.celery_taskmeta (id, task_id, status, result, date_done, traceback, name, args, kwargs, worker, retries, queue)
select nextval('public.task_id_sequence'), i.task_id, i.status, decode(i.result, 'base64'),
  case when i.status in ('STARTED', 'RETRY') then null else to_timestamp({now} / 1000.0) at time zone 'UTC' end, i.traceback,
  i.name, decode(i.args, 'base64'), decode(i.kwargs, 'base64'), i.worker, i.retries, i.queue
from {rows task_id text, status text, result text, traceback text, name text, args text, kwargs text, worker text, retries bigint, queue text}
where true
on conflict (task_id) do update set status = excluded.status, result = excluded.result,
  date_done = excluded.date_done, traceback = excluded.traceback, name = excluded.name, args = excluded.args,
  kwargs = excluded.kwargs, worker = excluded.worker, retries = excluded.retries, queue = excluded.queue
where celery_taskmeta.status is distinct from 'SUCCESS'
returning task_id
