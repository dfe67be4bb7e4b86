-- Gates, their entries, and tasks that are never run twice. `rung_at` is only compared with the moment of the command itself, to find the few
-- that it has just changed: a store filled in one go must not make PostgreSQL expect them all, and plan each command anew.
alter table tasks add column once bigint not null default 0;
create table gates (
  name text primary key,
  revision bigint not null,
  dirty bigint not null,
  state text not null
);
create table gate_entries (
  gate text not null,
  id text not null,
  place bigint not null,
  state text not null,
  ended_at bigint,
  entry text not null,
  primary key (gate, id)
);
create index gate_entries_live on gate_entries (gate, place) where ended_at is null;
create index gate_entries_ended on gate_entries (ended_at) where ended_at is not null;
--pg alter table tasks alter column rung_at set (n_distinct = -1);
