-- Whether a task has ended whose end is still to be passed on, and whether one of those failed. Uses tasks_linked.
select count(*) as number, coalesce(max(case when e.state = 'done' then 0 else 1 end), 0) as failed
from tasks e where e.links = 1 and e.state in ('done', 'dead', 'canceled', 'expired') and {any}
