-- The files of a source; a revision that is there is the same, and was published with anew. Uses bundle_sources_pkey.
insert into bundle_sources (source, data, published_at) select i.source, $3, {now}
from {rows source text}
where true
on conflict (source) do update set published_at = excluded.published_at
