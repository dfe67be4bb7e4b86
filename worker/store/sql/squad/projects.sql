-- The projects that have plugins. Uses core_project_pkey.
select g.slug || '/' || p.slug as project, p.enabled_plugins_list as plugins
from public.core_project p join public.core_group g on g.id = p.group_id
where coalesce(p.enabled_plugins_list, '') <> '' and {any} order by 1
