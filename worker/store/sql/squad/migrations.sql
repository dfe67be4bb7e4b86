-- SQUAD's schema by its own count. Uses django_migrations_pkey.
select cast(m.app as text) as app, cast(max(m.name) as text) as name from public.django_migrations m where m.app in ('ci', 'core') and {any} group by m.app
