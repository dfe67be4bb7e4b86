-- How many tasks there are by state.
select state, count(*) as number from tasks where {any} group by state
