-- What is wanted of a bundle changes from the version that was read to the next one, or not at all. Uses bundle_state_pkey.
insert into bundle_state (bundle, version, state)
select i.bundle, 1, i.state from {rows bundle text, version bigint, state text}
where true
on conflict (bundle) do update set version = bundle_state.version + 1, state = excluded.state
  where bundle_state.version = (select o.version from {rows:o bundle text, version bigint} where o.bundle = bundle_state.bundle)
returning version
