-- Entries that ended before then, once their tasks are gone: a new entry of the same id has tasks of the same ids, and must not get
-- the old ones' ends for its own. Dead letters stay until somebody clears them, and their entries with them. Uses
-- gate_entries_ended, tasks_ended, tasks_set_aside.
delete from gate_entries where (gate, id) in (select e.gate, e.id from {rows before bigint} join gate_entries e on e.ended_at < i.before
  where not exists (select 1 from tasks t where t.state in ('done', 'canceled', 'expired') and t.ended_at <= e.ended_at)
    and not exists (select 1 from tasks d where d.state = 'dead' and d.id like 'gate/' || e.gate || '/' || e.id || '/%') limit 1000)
returning id
