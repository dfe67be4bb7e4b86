-- Numbers for the attachments among a run's files, each taken once. Uses staged_files_pkey, squad_files_pkey.
insert into squad_files (run, seq, attachment, path, filename, mimetype)
select f.run, f.seq, n.id, 'attachment/' || n.id || '/' || left(f.name, 60), f.name, left(f.mimetype, 128)
from {rows run bigint, seq bigint} join staged_files f on f.run = i.run and f.seq = i.seq
cross join lateral (select nextval(pg_get_serial_sequence('public.core_attachment', 'id')) as id where f.seq > 0) n
on conflict (run, seq) do update set path = squad_files.path
returning seq, path
