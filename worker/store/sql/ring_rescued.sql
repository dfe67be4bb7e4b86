-- Rescued tasks that nobody has claimed yet are announced again after 2 s, 4 s, … 64 s: the broker may have given the
-- message to a worker that is stopped, or on a node that is gone, and whose connection it has not yet given up. Uses tasks_rescued.
update tasks set rung_at = {now}, rings = tasks.rings + 1
from (select t.id as id from tasks t where t.state = 'queued' and t.crashes > 0
    and t.rung_at < {now} - 2000 * case t.rings when 0 then 1 when 1 then 2 when 2 then 4 when 3 then 8 when 4 then 16 else 32 end
    and {any}
  order by t.rung_at limit 500) as quiet
where tasks.id = quiet.id and tasks.state = 'queued'
returning tasks.id, tasks.state
