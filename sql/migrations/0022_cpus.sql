-- Older programs go on.
-- How many processors the VMs of an OSF have; null: as many as the configuration says.
alter table osfs add column cpus integer check (cpus > 0);
alter table vm_specs add column cpus integer;

-- Those that are there now have an argument or a column less.
drop function if exists osf_create(text, integer, integer, text);
drop function if exists node_claim(integer, bigint, integer, integer);
