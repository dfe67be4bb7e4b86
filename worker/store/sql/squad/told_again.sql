-- SQUAD is told again. Uses squad_exports_pkey.
update squad_exports set told_at = {now} from {rows testjob bigint, generation bigint}
where squad_exports.testjob = i.testjob and squad_exports.generation = i.generation
