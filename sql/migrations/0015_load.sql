-- How loaded each node is, without counting its VMs at every start, and indexes for what is asked again and again.

alter table host_runtimes
    -- VMs assigned to it, but for what `host_changes` has to add.
    add column vms integer not null default 0,
    -- MB that programs could still get; null: it has not said.
    add column free_ram real,
    -- Share of time in which something had to wait for a processor, from 0 to 1; null: it has not said.
    add column cpu_pressure real,
    -- Starts that failed, half of them forgotten every minute; but for what `host_changes` has to add.
    add column failed_starts real not null default 0,
    -- Every sign of life is a new version of the row, which shall find room beside the old one.
    set (fillfactor = 50);

-- What happened to nodes since their last sign of life, which adds it up. Rows are only inserted, so that starts on one
-- node do not wait for each other. No foreign key: checking it would lock the row of the node.
create table host_changes (
    host_id integer not null,
    -- 1: a VM was assigned to it; -1: taken from it.
    vms integer not null default 0,
    failed_starts integer not null default 0
);
create index on host_changes (host_id);
-- All of it is read at every start.
alter table host_changes set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

update host_runtimes h set vms = (select count(*) from vm_runtimes r where r.host_id = h.host_id);

-- Whether VMs of one user are placed together.
alter table balancer add column same_user boolean not null default false;

-- Only VMs in use have these.
create index vm_runtimes_router on vm_runtimes (l7r_instance) where l7r_instance is not null;
create index vm_runtimes_sessions on vm_runtimes (l7r_host_id) where l7r_host_id is not null;
create index vms_of_user on vms (user_id);
create index vms_of_osf on vms (osf_id);
create index hosts_storage on hosts (storage_id, id);

-- It says more, and answers.
drop function if exists node_lease(integer, bigint, real, real, text, text);
