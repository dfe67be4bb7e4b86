-- Which of these columns Celery's SQLAlchemy backend has in its table. PostgreSQL only.
select i.name from {rows name text}
join information_schema.columns c on c.table_schema = 'public' and c.table_name = 'celery_taskmeta' and c.column_name = i.name
