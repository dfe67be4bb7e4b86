-- What a revision is made of. Uses bundles_pkey.
select b.manifest from {rows bundle text, revision text} join bundles b on b.bundle = i.bundle and b.revision = i.revision
