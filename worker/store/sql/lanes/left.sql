-- Those of these tasks whose end is still to be passed on. Uses tasks_pkey.
select e.id from {rows id text} join tasks e on e.id = i.id and e.state in ('done', 'dead', 'canceled', 'expired') and e.links = 1
