-- Whether what was staged for a test job of SQUAD is still there: it goes once SQUAD shows it all.
alter table squad_exports add column staged bigint not null default 1;
create index squad_exports_staged on squad_exports (testjob) where staged = 1;
