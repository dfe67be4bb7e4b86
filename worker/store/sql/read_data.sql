-- The next pieces of a file. Uses staged_data_pkey.
select d.seq, d.data from {rows run bigint, file bigint, after bigint}
join staged_data d on d.run = i.run and d.file = i.file and d.seq > i.after order by d.seq limit 8
