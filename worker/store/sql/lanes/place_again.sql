-- … and the tasks in them: whoever waits for another one of them stands behind it, else they keep the order that they had. All whom they
-- wait for beside these were there before, so nobody waits in a circle. Uses tasks_blocked, task_after_after, tasks_pkey.
with recursive waits (id, depth) as (
  select t.id, 0 from tasks t where t.state = 'blocked' and t.rung_at = {now} and {any}
  union
  select w.id, d.depth + 1 from waits d join task_after a on a.after_id = d.id
    join tasks w on w.id = a.task_id and w.state = 'blocked' and w.rung_at = {now}
)
update tasks set place = f.place
from (select t.id, l.next_place - row_number() over (partition by t.lane order by d.depth desc, t.last_place desc, t.created_at desc, t.id desc) as place
  from (select g.id, max(g.depth) as depth from waits g group by g.id) d join tasks t on t.id = d.id join lanes l on l.key = t.lane
  where t.place is null) as f
where tasks.id = f.id
returning tasks.id
