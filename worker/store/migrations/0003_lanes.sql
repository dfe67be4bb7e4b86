-- Lanes (tasks of one key, in order) and tasks that wait for others.
create table lanes (
  key text primary key,
  slots bigint not null,
  next_place bigint not null
);
create table task_after (
  task_id text not null,
  after_id text not null,
  wanted text not null,
  primary key (task_id, after_id)
);
create index task_after_after on task_after (after_id);
alter table tasks add column lane text;
alter table tasks add column place bigint;
alter table tasks add column last_place bigint;
alter table tasks add column on_failure text;
alter table tasks add column links bigint not null default 0;
alter table tasks add column released_at bigint;
create unique index tasks_lane on tasks (lane, place) where place is not null;
create index tasks_holding on tasks (lane) where place is not null and state <> 'blocked';
create index tasks_linked on tasks (id) where links = 1 and state in ('done', 'dead', 'canceled', 'expired');
create index tasks_blocked on tasks (rung_at) where state = 'blocked';
