-- Nothing is staged for these any more. Uses squad_exports_pkey.
update squad_exports set staged = 0 from {rows testjob bigint, generation bigint}
where squad_exports.testjob = i.testjob and squad_exports.generation = i.generation
