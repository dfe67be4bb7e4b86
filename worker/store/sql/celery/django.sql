-- Results as django_celery_results keeps them. PostgreSQL only: the table is the application's, in the schema public.
-- Uses its unique task_id.
insert into public.django_celery_results_taskresult (task_id, task_name, task_args, task_kwargs, status, worker,
  content_type, content_encoding, result, date_created, date_done, traceback, meta)
select i.task_id, i.name, i.args, i.kwargs, i.status, i.worker, 'application/json', 'utf-8', i.result,
  to_timestamp({now} / 1000.0), to_timestamp({now} / 1000.0), i.traceback, i.meta
from {rows task_id text, name text, args text, kwargs text, status text, worker text, result text, traceback text, meta text}
where true
on conflict (task_id) do update set task_name = excluded.task_name, task_args = excluded.task_args,
  task_kwargs = excluded.task_kwargs, status = excluded.status, worker = excluded.worker,
  content_type = excluded.content_type, content_encoding = excluded.content_encoding, result = excluded.result,
  date_done = excluded.date_done, traceback = excluded.traceback, meta = excluded.meta
returning task_id
