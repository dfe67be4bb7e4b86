-- The last member of a chord has ended: its counter goes, and the message that looks at the results is announced, with
-- the members' results as the counter lists them. Uses the counter's unique group_id.
with ended as (
  delete from public.django_celery_results_chordcounter c
  using {rows group_id text, id text, queue text, priority bigint, task text}
  where c.group_id = i.group_id and c.count = 0
  returning c.sub_tasks, i.id, i.queue, i.priority, i.task
)
insert into outbox (task_id, queue, priority, task, held_until)
select ended.id, ended.queue, ended.priority,
  cast(jsonb_set(cast(ended.task as jsonb), array['kwargs', 'result'], cast(ended.sub_tasks as jsonb)) as text), {now} + 2000
from ended
returning seq, queue, priority, task
