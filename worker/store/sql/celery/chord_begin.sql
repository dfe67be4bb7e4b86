-- A chord's counter, as django_celery_results keeps it: the members that have not ended. PostgreSQL only.
insert into public.django_celery_results_chordcounter (group_id, sub_tasks, count)
select i.group_id, i.sub_tasks, i.size from {rows group_id text, sub_tasks text, size bigint}
where true
on conflict (group_id) do nothing
returning group_id
