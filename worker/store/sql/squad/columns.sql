-- The columns of SQUAD's tables: what an insert must give. Uses PostgreSQL's catalogue.
select cast(c.table_name as text) as table_name, cast(c.column_name as text) as column_name,
  case when c.is_nullable = 'NO' and c.column_default is null and c.is_identity = 'NO' then 1 else 0 end as needed
from information_schema.columns c where c.table_schema = 'public' and c.table_name in (select t.name from {rows:t name text})
