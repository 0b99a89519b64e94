-- What only a node knows of its VMs while they are on their way somewhere, for whoever asks why they are not there yet.
-- Written now and then and without waking anybody; a row that is missing means that nothing takes long.
create table vm_progress (
    vm_id integer primary key references vms on delete cascade,
    host_id integer not null references hosts on delete cascade,
    -- As in src/hkd/machine.rs.
    phase text not null,
    since timestamptz not null,
    -- When the node does what follows if nothing happens before.
    until timestamptz,
    -- Pings of its agent that failed, or attempts to free what it left.
    attempts integer not null,
    -- What went wrong last.
    note text
);
create index on vm_progress (host_id);
