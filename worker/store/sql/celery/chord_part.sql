-- One member of a chord has ended. Locks the counter, as Celery's workers do, until the commit. Uses its unique group_id.
update public.django_celery_results_chordcounter set count = count - 1
from {rows group_id text}
where django_celery_results_chordcounter.group_id = i.group_id and django_celery_results_chordcounter.count > 0
returning django_celery_results_chordcounter.group_id
