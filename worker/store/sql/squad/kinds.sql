-- The kinds of backends. Uses ci_backend_pkey.
select b.name, b.implementation_type as kind from public.ci_backend b where {any} order by b.name
