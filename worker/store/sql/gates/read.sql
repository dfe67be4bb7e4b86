-- A gate as it is now. Uses gates_pkey.
select g.name, g.revision, g.dirty, g.state from {rows name text} join gates g on g.name = i.name
