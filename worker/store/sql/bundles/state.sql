-- What is wanted of a bundle. Uses bundle_state_pkey.
select s.version, s.state from {rows bundle text} join bundle_state s on s.bundle = i.bundle
