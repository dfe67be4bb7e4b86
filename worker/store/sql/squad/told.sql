-- SQUAD is told in this transaction how the test job ended; whether it has heard is looked at later. Uses squad_exports_pkey.
update squad_exports set told_at = {now} from {rows testjob bigint, generation bigint}
join squad_due x on x.testjob = i.testjob and x.generation = i.generation
where squad_exports.testjob = i.testjob and squad_exports.generation = i.generation
