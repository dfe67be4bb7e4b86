-- What the tasks of this command wait for; those that were there before are left as they are. Uses tasks_pkey.
insert into task_after (task_id, after_id, wanted)
select i.id, i.after, i.wanted
from {rows id text, after text, wanted text} join tasks t on t.id = i.id and t.state = 'blocked' and t.created_at = {now}
where true
on conflict (task_id, after_id) do nothing
returning task_id
