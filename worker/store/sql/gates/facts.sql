-- How tasks of a gate stand. Uses tasks_pkey.
select t.id, t.state, t.epoch, t.crashes, t.interruptions, t.result, t.reason from {rows id text} join tasks t on t.id = i.id
