-- What a run has staged is dropped, a bounded piece at a time: its source did not repeat itself. Uses staged_facts_pkey.
delete from staged_facts where staged_facts.run in (select i.run from {rows run bigint})
