-- Results as Celery's SQLAlchemy backend keeps them; a success is never replaced, as there. PostgreSQL only: the table
-- is the application's, in the schema public. Uses its unique task_id.
insert into public.celery_taskmeta (id, task_id, status, result, date_done, traceback)
select nextval('public.task_id_sequence'), i.task_id, i.status, decode(i.result, 'base64'),
  case when i.status in ('STARTED', 'RETRY') then null else to_timestamp({now} / 1000.0) at time zone 'UTC' end, i.traceback
from {rows task_id text, status text, result text, traceback text}
where true
on conflict (task_id) do update set status = excluded.status, result = excluded.result,
  date_done = excluded.date_done, traceback = excluded.traceback
where celery_taskmeta.status is distinct from 'SUCCESS'
returning task_id
