-- What the backend said, kept until it can be shown with all results. Uses squad_exports_pkey.
update squad_exports set status = i.status, completed = i.completed, metadata = i.metadata, failure = i.failure, name = i.name,
  environment = i.environment, started_at = i.started_at, ended_at = i.ended_at, resubmit = i.resubmit
from {rows testjob bigint, generation bigint, status text, completed bigint, metadata text, failure text, name text, environment text, started_at text, ended_at text, resubmit bigint}
where squad_exports.testjob = i.testjob and squad_exports.generation = i.generation
returning squad_exports.pk
