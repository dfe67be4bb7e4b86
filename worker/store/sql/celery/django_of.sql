-- What django_celery_results has of these tasks. PostgreSQL only. Uses its unique task_id.
select r.task_id, r.status, r.content_type, r.result
from {rows task_id text} join public.django_celery_results_taskresult r on r.task_id = i.task_id
