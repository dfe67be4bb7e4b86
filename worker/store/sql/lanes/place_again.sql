-- … and the tasks in them, in the order that they had: nobody stands ahead of what it waits for. Uses tasks_blocked.
update tasks set place = f.place
from (select t.id, l.next_place - row_number() over (partition by t.lane order by t.last_place desc, t.created_at desc, t.id desc) as place
  from tasks t join lanes l on l.key = t.lane
  where t.state = 'blocked' and t.rung_at = {now} and t.place is null and {any}) as f
where tasks.id = f.id
returning tasks.id
