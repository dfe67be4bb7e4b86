-- Every bundle that somebody has published, frozen or followed. Uses bundle_state_pkey, bundle_reports_pkey.
select s.bundle from bundle_state s where {any} union select r.bundle from bundle_reports r order by bundle
