-- Metadata and problems that nobody can see yet. Uses staged_facts_pkey.
insert into staged_facts (run, seq, kind, key, value)
select i.run, i.seq, i.kind, i.key, i.value
from {rows run bigint, seq bigint, kind text, key text, value text}
