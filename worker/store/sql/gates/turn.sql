-- A gate changes from the revision that was read to the next one, or not at all. Uses gates_pkey.
insert into gates (name, revision, dirty, state)
select i.name, 1, 0, i.state from {rows name text, revision bigint, state text}
where true
on conflict (name) do update set revision = gates.revision + 1, dirty = 0, state = excluded.state
  where gates.revision = (select o.revision from {rows:o name text, revision bigint} where o.name = gates.name)
returning name
