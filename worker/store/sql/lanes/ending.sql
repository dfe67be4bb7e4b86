-- Tasks that have ended and whose end is still to be passed on. Uses tasks_linked.
select e.id from tasks e where e.links = 1 and e.state in ('done', 'dead', 'canceled', 'expired') and {any} limit 500
