-- VMs that expire, and nodes that are told to stop.

alter table vm_runtimes
    -- When the VM was last told that it expires softly; null: not yet.
    add column vm_expiration_told timestamptz;
-- A node asks for the next of its VMs that expires.
create index vm_runtimes_expirations on vm_runtimes (host_id)
    where vm_expiration_soft is not null or vm_expiration_hard is not null;
