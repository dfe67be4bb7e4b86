-- Somebody has to look at these gates: tasks of theirs have ended. Always in the same order: who marks others waits, never in a
-- circle. Uses gates_pkey.
update gates set revision = gates.revision + 1, dirty = 1
where gates.name in (select g.name from gates g where g.name in (select i.name from {rows name text}) order by g.name
--pg for update
)
returning gates.name
