-- What was done to a bundle, newest first. Uses bundle_log_bundle.
select l.id, l.at, l.what, l.revision, l.who, l.detail from {rows bundle text, before bigint, most bigint}
join bundle_log l on l.bundle = i.bundle and l.id < i.before order by l.id desc limit (select k.most from {rows:k most bigint})
