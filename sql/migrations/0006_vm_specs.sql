-- One row per VM with all that a start of it takes, so that a start reads one row in place of one in each of nine tables.
-- Triggers keep it equal to the view `vm_specs_due`. Nobody may read it: secrets are in it.
create table vm_specs (
    vm_id integer primary key references vms on delete cascade,
    name text not null,
    tenant_id integer not null,
    tenant text not null,
    user_id integer not null,
    login text not null,
    osf_id integer not null,
    memory integer not null,
    user_storage_size integer not null,
    di_tag text not null,
    ip inet not null,
    -- The image version that a start would use now; null when there is none.
    di_id integer,
    di_path text,
    -- What the node and the agent in the VM share for the next run.
    secret bytea not null check (length(secret) = 32)
);
create index on vm_specs (login, name);
create index on vm_specs (osf_id);

insert into vm_specs
select v.id, v.name, t.id, t.name, u.id, u.login, o.id, o.memory, o.user_storage_size, v.di_tag, v.ip, d.id, d.path,
    s.secret
from vms v
    join users u on u.id = v.user_id
    join tenants t on t.id = u.tenant_id
    join osfs o on o.id = v.osf_id
    join vm_secrets s on s.vm_id = v.id
    left join dis d on d.id = (
        select i.id from dis i join di_tags g on g.di_id = i.id join di_runtimes r on r.di_id = i.id
        where i.osf_id = v.osf_id and g.tag = v.di_tag and not i.blocked and r.state in ('ready', 'published')
        order by r.state = 'published' desc, i.id desc limit 1);

drop view if exists node_vm cascade;
drop table vm_secrets;
drop view if exists startable_vms;
