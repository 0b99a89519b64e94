-- Which storage a node uses, how long it must be silent before it is given up, and what becomes of its VMs then.

alter table hosts
    -- Identity of the shared storage, as the node found it when it first started there. Null: the node takes up the one
    -- it finds next, or its storage is its own.
    add column storage_id uuid;

alter table host_runtimes
    -- Seconds for which both its signs of life must stand still before others take its VMs over. The node says so itself,
    -- because it ends its VMs before that. Null: nobody takes anything over.
    add column patience float8,
    -- Null while the storage takes the node's sign of life, else since when and why it does not.
    add column storage_degraded_since timestamptz,
    add column storage_degraded_reason text;

alter table vms
    -- Started elsewhere without being asked when its node is lost.
    add column keep_running boolean not null default false;

alter table vm_runtimes
    -- Its node was lost; to be started as soon as a node can take it.
    add column restart_due boolean not null default false,
    -- Since when its session shall end.
    add column user_cmd_ts timestamptz;
create index vm_runtimes_restart_due on vm_runtimes (vm_id) where restart_due;

-- Replaced by functions that are told more.
drop function if exists node_start(text, uuid, integer);
drop function if exists node_lease(integer, bigint, real, real, text);
