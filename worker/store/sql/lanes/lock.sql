-- The lanes that may move: those named, those of tasks that wait `again` by this command, of these tasks, and of tasks that wait for
-- these. One mover at a time, and always in the same order. Uses tasks_pkey, tasks_blocked, task_after_after, lanes_pkey.
select l.key from lanes l where l.key in (
  select g.lane from {rows:g id text, lane text} where g.lane is not null
  union select n.lane from {rows:r again bigint} join tasks n on n.state = 'blocked' and n.rung_at = {now} and r.again = 1 where n.lane is not null
  union select e.lane from {rows id text, lane text} join tasks e on e.id = i.id where e.lane is not null
  union select b.lane from {rows:o id text, lane text} join task_after a on a.after_id = o.id join tasks b on b.id = a.task_id and b.state = 'blocked'
    where b.lane is not null)
order by l.key
--pg for update
