-- What a plugin could not do, shown as the test job's failure. Uses squad_exports_pkey.
update squad_exports set failure = case when squad_exports.failure is null then i.text else squad_exports.failure || chr(10) || i.text end
from {rows testjob bigint, generation bigint, text text}
where squad_exports.testjob = i.testjob and squad_exports.generation = i.generation
