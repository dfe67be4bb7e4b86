-- The tasks that wait for what has ended: of two that end at the same time, the second sees the first. Uses tasks_linked, task_after_after.
select b.id from tasks b where b.state = 'blocked' and b.id in (
  select a.task_id from tasks e join task_after a on a.after_id = e.id where e.links = 1 and e.state in ('done', 'dead', 'canceled', 'expired')) and {any}
order by b.id
--pg for update
