-- Test jobs whose results go into SQUAD's own tables. `squad_due`: those of which every part is published.
create table squad_exports (
  testjob bigint not null,
  generation bigint not null,
  pk bigint not null,
  testrun bigint not null,
  clean bigint not null,
  append bigint not null,
  status text,
  completed bigint not null default 1,
  metadata text,
  failure text,
  name text,
  environment text,
  started_at text,
  ended_at text,
  resubmit bigint not null default 0,
  resubmitted bigint,
  told_at bigint,
  primary key (testjob, generation)
);
create index squad_exports_told on squad_exports (told_at) where told_at is not null;
create index squad_exports_testrun on squad_exports (testrun);
create table squad_files (
  run bigint not null,
  seq bigint not null,
  attachment bigint not null,
  path text not null,
  filename text not null,
  mimetype text not null,
  length bigint not null default 0,
  primary key (run, seq)
);
create view squad_due as
  select x.* from squad_exports x join testjobs j on j.id = x.testjob and j.wanted = x.generation
    and j.state in ('complete', 'incomplete', 'canceled');
