-- What a start needs lies ready, so that the start only reads it.

-- Every VM has the secret of its next run beforehand.
insert into vm_secrets (vm_id, secret)
select vm_id, uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) from vm_runtimes
on conflict (vm_id) do nothing;

-- One row: how the balancer is configured. Triggers keep it equal to the configuration.
create table balancer (
    one boolean primary key default true check (one),
    plugin text,
    ram_weight float8,
    cpu_weight float8,
    random_weight float8,
    -- A node whose last sign of life is older takes no VMs.
    lapse interval
);
insert into balancer default values;
