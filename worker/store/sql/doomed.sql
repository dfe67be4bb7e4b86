-- Tasks that rescue would make an end of. Uses tasks_running.
select t.id as id from {rows crash_limit bigint}, workers w join tasks t on t.worker = w.id and t.state = 'running'
where w.state in ('lost', 'stopped') and (t.cancel = 1 or t.once = 1 or t.crashes + 1 >= i.crash_limit) limit 500
