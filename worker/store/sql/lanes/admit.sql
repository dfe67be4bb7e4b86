-- The first of each lane that may move, if there is room, nothing that it waits for is still to come, and no failed one halts the lane.
-- Nobody overtakes: behind one that waits for another task, all wait. Where a limit was lowered, some may run who stand further back:
-- they count. Uses lanes_pkey, tasks_lane, tasks_holding; else as `lanes/lock`. (`cross join`, `in`, and `<> -1` for "is not null" keep SQLite from
-- walking all that waits in all lanes, or in this one.)
with recursive touched as (
  select l.key, l.slots from lanes l where l.key in (
  select g.lane from {rows:g id text, lane text} where g.lane is not null
  union select n.lane from {rows:r again bigint} join tasks n on n.state = 'blocked' and n.rung_at = {now} and r.again = 1 where n.lane is not null
  union select e.lane from {rows id text, lane text} join tasks e on e.id = i.id where e.lane is not null
  union select b.lane from {rows:o id text, lane text} join task_after a on a.after_id = o.id join tasks b on b.id = a.task_id and b.state = 'blocked'
    where b.lane is not null)
), ahead (lane, slots, place, place_in_lane) as (
  select l.key, l.slots, (select min(m.place) from tasks m where m.lane = l.key and m.place is not null), 1 from touched l
  union all
  select p.lane, p.slots, (select min(m.place) from tasks m where m.lane = p.lane and m.place > p.place and m.place is not null), p.place_in_lane + 1
  from ahead p where p.place_in_lane < p.slots and p.place is not null
), heads as (
  select t.id, t.state, t.lane, t.place, a.slots from ahead a cross join tasks t where t.lane = a.lane and t.place = a.place and t.place is not null
), stuck as (
  select b.lane, b.place from heads b where (b.state = 'dead' or b.state = 'blocked' and exists (select 1 from task_after u join tasks d on d.id = u.after_id where u.task_id = b.id
    and (d.state not in ('done', 'dead', 'canceled', 'expired') or u.wanted = 'success' and d.state <> 'done' or u.wanted = 'failed' and d.state = 'done')))
)
update tasks set state = case when tasks.run_at > {now} then 'waiting' else 'queued' end, rung_at = {now}, released_at = {now}, reason = null
where tasks.state = 'blocked' and tasks.id in (select f.id from (select b.id, b.slots - row_number() over (partition by b.lane order by b.place)
    - (select count(*) from tasks h where h.lane = b.lane and h.place <> -1 and h.state <> 'blocked') as room
  from heads b where b.state = 'blocked' and not exists (select 1 from stuck s where s.lane = b.lane and s.place <= b.place)) as f where f.room >= 0)
returning tasks.id
