-- The names of gates. Uses gates_pkey.
select g.name from gates g where {any} order by g.name
