-- What a worker holds by the store's word, and what of it shall be canceled. Uses tasks_running.
select tasks.id, tasks.epoch, tasks.cancel from {rows id text}
join tasks on tasks.worker = i.id and tasks.state = 'running'
