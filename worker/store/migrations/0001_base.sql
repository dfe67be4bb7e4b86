-- Tables, indexes and views of the first release. `{id}` and `{bytes}` are replaced per database.
-- Times are milliseconds since 1970 (UTC); JSON is kept as text.
create table workers (
  id text primary key,
  pool text not null,
  kind text not null,
  host text not null,
  pid bigint not null,
  state text not null,
  slots bigint not null,
  started_at bigint not null,
  lease_until bigint not null,
  lock_key bigint not null
);
create table leaders (
  name text primary key,
  worker text not null,
  term bigint not null,
  lease_until bigint not null
);
create table tasks (
  id text primary key,
  name text not null,
  queue text not null,
  priority bigint not null,
  state text not null,
  epoch bigint not null,
  worker text,
  failures bigint not null default 0,
  crashes bigint not null default 0,
  interruptions bigint not null default 0,
  run_at bigint,
  expires_at bigint,
  created_at bigint not null,
  started_at bigint,
  ended_at bigint,
  rung_at bigint,
  rings bigint not null default 0,
  cancel bigint not null default 0,
  task text not null,
  checkpoint text,
  checkpoint_at bigint,
  progress text,
  result text,
  reason text
);
create index tasks_due on tasks (run_at) where state = 'waiting';
create index tasks_running on tasks (worker) where state = 'running';
create index tasks_queued on tasks (rung_at) where state = 'queued';
create index tasks_rescued on tasks (rung_at) where state = 'queued' and crashes > 0;
create index tasks_set_aside on tasks (state, name) where state in ('dead', 'parked');
create index tasks_ended on tasks (ended_at) where state in ('done', 'canceled', 'expired');
create table outbox (
  seq {id},
  task_id text not null,
  queue text not null,
  priority bigint not null,
  task text not null,
  held_until bigint not null
);
create index outbox_held on outbox (held_until);
create table messages (
  seq {id},
  queue text not null,
  priority bigint not null,
  content text not null,
  consumer text,
  redelivered bigint not null default 0
);
create index messages_ready on messages (queue, priority desc, seq) where consumer is null;
create index messages_taken on messages (consumer) where consumer is not null;
create table testjobs (
  id {id},
  backend text not null,
  remote_id text not null,
  project text not null,
  build text not null,
  environment text not null,
  state text not null,
  status text,
  name text,
  url text,
  reason text,
  visible bigint not null default 0,
  wanted bigint not null default 1,
  created_at bigint not null,
  fetched_at bigint,
  ended_at bigint,
  unique (backend, remote_id)
);
create index testjobs_target on testjobs (project, build);
create table runs (
  id {id},
  testjob bigint not null,
  generation bigint not null,
  part text not null,
  task_id text not null,
  state text not null,
  unclean bigint not null default 0,
  tests bigint not null default 0,
  passed bigint not null default 0,
  failed bigint not null default 0,
  xfailed bigint not null default 0,
  skipped bigint not null default 0,
  metrics bigint not null default 0,
  problems bigint not null default 0,
  created_at bigint not null,
  published_at bigint,
  unique (testjob, generation, part)
);
create index runs_superseded on runs (generation, testjob);
create index runs_task on runs (task_id);
create index runs_staging on runs (id) where state = 'staging';
create table staged_tests (
  run bigint not null,
  seq bigint not null,
  suite text not null,
  name text not null,
  result text not null,
  log text,
  primary key (run, seq)
);
create table staged_metrics (
  run bigint not null,
  seq bigint not null,
  suite text not null,
  name text not null,
  value double precision not null,
  unit text not null,
  measurements text not null,
  primary key (run, seq)
);
create table staged_facts (
  run bigint not null,
  seq bigint not null,
  kind text not null,
  key text not null,
  value text not null,
  primary key (run, seq)
);
create table staged_files (
  run bigint not null,
  seq bigint not null,
  name text not null,
  mimetype text not null,
  primary key (run, seq)
);
create table staged_data (
  run bigint not null,
  file bigint not null,
  seq bigint not null,
  data {bytes} not null,
  primary key (run, file, seq)
);
create view published_runs as
  select r.id as run, r.testjob, r.generation, r.part, r.tests, r.passed, r.failed, r.xfailed, r.skipped,
         r.metrics, r.problems, r.published_at, j.backend, j.remote_id, j.project, j.build, j.environment
  from testjobs j join runs r on r.testjob = j.id and r.generation = j.visible and r.state = 'published';
create view published_tests as
  select p.testjob, p.run, p.part, t.seq, t.suite, t.name, t.result, t.log
  from published_runs p join staged_tests t on t.run = p.run;
create view published_metrics as
  select p.testjob, p.run, p.part, m.seq, m.suite, m.name, m.value, m.unit, m.measurements
  from published_runs p join staged_metrics m on m.run = p.run;
create view published_facts as
  select p.testjob, p.run, p.part, f.seq, f.kind, f.key, f.value
  from published_runs p join staged_facts f on f.run = p.run;
create view published_files as
  select p.testjob, p.run, p.part, f.seq, f.name, f.mimetype
  from published_runs p join staged_files f on f.run = p.run;
