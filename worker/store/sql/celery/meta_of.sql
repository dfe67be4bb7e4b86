-- What Celery's SQLAlchemy backend has of these tasks. PostgreSQL only. Uses its unique task_id.
select m.task_id, m.status, encode(m.result, 'base64') as result
from {rows task_id text} join public.celery_taskmeta m on m.task_id = i.task_id
