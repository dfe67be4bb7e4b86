-- Bundles of configuration: what is in them, which is wanted, who has which, and what was done.
create table bundles (
  bundle text not null,
  revision text not null,
  manifest text not null,
  published_at bigint not null,
  primary key (bundle, revision)
);
create table bundle_sources (
  source text primary key,
  data {bytes} not null,
  published_at bigint not null
);
create table bundle_state (
  bundle text primary key,
  version bigint not null,
  state text not null
);
create table bundle_reports (
  bundle text not null,
  worker text not null,
  pool text not null,
  kind text not null,
  host text not null,
  reported_at bigint not null,
  report text not null,
  primary key (bundle, worker)
);
create table bundle_log (
  id {id},
  bundle text not null,
  at bigint not null,
  what text not null,
  revision text,
  who text not null,
  detail text not null
);
create index bundle_log_bundle on bundle_log (bundle, id);
alter table tasks add column revision text;
