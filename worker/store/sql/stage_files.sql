-- Files that nobody can see yet. Uses staged_files_pkey.
insert into staged_files (run, seq, name, mimetype)
select i.run, i.seq, i.name, i.mimetype from {rows run bigint, seq bigint, name text, mimetype text}
