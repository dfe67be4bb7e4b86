-- Files that nobody can want any more: only revisions have them that are older than the last so many of their bundle and not in its
-- state. What was published with a moment ago is left, whatever is committed meanwhile. Looks at all sources.
delete from bundle_sources where bundle_sources.published_at < {now} - 3600000 and bundle_sources.source not in (
  select x.source from bundle_sources x join (select b.bundle, b.revision, b.manifest,
    row_number() over (partition by b.bundle order by b.published_at desc) as age from bundles b) as made
    on made.manifest like '%' || x.source || '%'
  left join bundle_state s on s.bundle = made.bundle
  where made.age <= (select i.most from {rows most bigint}) or s.state like '%' || made.revision || '%')
