-- The files of a source; a revision that is there is the same. Uses bundle_sources_pkey.
insert into bundle_sources (source, data) select i.source, $3
from {rows source text}
where true
on conflict (source) do nothing
