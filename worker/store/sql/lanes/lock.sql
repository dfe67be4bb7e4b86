-- The lanes that may move: those of tasks that are new, that have ended, and that waited for those. One mover at a time, and always in the
-- same order. Uses tasks_linked, tasks_blocked, task_after_after, lanes_pkey.
select l.key from lanes l where l.key in (
  select o.lane from {rows:o lane text}
  union select n.lane from tasks n where n.state = 'blocked' and n.rung_at = {now} and n.lane is not null
  union select e.lane from tasks e where e.links = 1 and e.state in ('done', 'dead', 'canceled', 'expired') and e.lane is not null
  union select b.lane from tasks e join task_after a on a.after_id = e.id join tasks b on b.id = a.task_id and b.state = 'blocked' and b.lane is not null
    where e.links = 1 and e.state in ('done', 'dead', 'canceled', 'expired'))
order by l.key
--pg for update
