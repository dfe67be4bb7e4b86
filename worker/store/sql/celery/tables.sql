-- Which of these tables are there. PostgreSQL only.
select i.name from {rows name text} where to_regclass(i.name) is not null
