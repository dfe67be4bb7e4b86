-- The files of a source. Uses bundle_sources_pkey.
select cast(1 as bigint) as seq, s.data from {rows source text} join bundle_sources s on s.source = i.source
