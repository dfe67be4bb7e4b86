-- Places at the end of their lanes for the tasks of this command that have none any more, and the lanes' locks. Uses tasks_blocked.
insert into lanes (key, slots, next_place)
select t.lane, 1, {now} + count(*) from tasks t
where t.state = 'blocked' and t.rung_at = {now} and t.lane is not null and t.place is null and {any}
group by t.lane order by t.lane
on conflict (key) do update set next_place = lanes.next_place + excluded.next_place - {now}
returning key
