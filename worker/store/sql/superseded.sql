-- Runs that no reader will see again. Uses runs_superseded.
select r.id from {rows most bigint} join testjobs j on j.visible > 1
join runs r on r.testjob = j.id and r.generation < j.visible order by r.id limit (select k.most from {rows:k most bigint})
