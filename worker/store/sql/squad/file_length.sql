-- How long the attachments are that stand in SQUAD's storage now. Uses squad_files_pkey.
update squad_files set length = i.length from {rows run bigint, seq bigint, length bigint}
where squad_files.run = i.run and squad_files.seq = i.seq
