-- Commands that go together wait for a lock no longer than this: alone, only the one that needs it would.
select set_config('lock_timeout', '1s', true) as done from {rows nothing bigint}
