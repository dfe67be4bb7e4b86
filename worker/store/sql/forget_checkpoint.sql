-- A task that was given up begins anew if it is retried by hand: what it staged is gone. Uses tasks_pkey.
update tasks set checkpoint = null from {rows id text}
where tasks.id = i.id and tasks.state in ('dead', 'canceled', 'expired')
returning tasks.id
