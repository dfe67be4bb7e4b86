-- How many test jobs there are by state.
select state, count(*) as number from testjobs where {any} group by state
