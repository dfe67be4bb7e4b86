-- A revision of a bundle; one that is there is the same. Uses bundles_pkey.
insert into bundles (bundle, revision, manifest, published_at) select i.bundle, i.revision, i.manifest, {now}
from {rows bundle text, revision text, manifest text}
where true
on conflict (bundle, revision) do nothing
