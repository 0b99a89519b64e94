-- What hkd may do. Every function names the host and the epoch that the caller lives in; when somebody else has
-- taken the node over, the epoch is another and nothing is done.

-- Raises unless `node_epoch` is the present life of the host.
create or replace function node_check(node integer, node_epoch bigint) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    if not exists (select from host_runtimes where host_id = node and epoch = node_epoch) then
        raise exception 'host % lives in another epoch than %', node, node_epoch
            using errcode = 'QV001', hint = 'Another process has taken this node over.';
    end if;
end $$;

-- The one who starts hkd on a node asks who he is. The same boot of the same machine keeps its epoch, so what it
-- runs stays its own. Another boot begins a new epoch: everything that ran is dead. Another machine begins one only when it
-- names the lease that stood still before its eyes, or when there is nothing that could still run. Refused is also one that
-- found another storage than it had: a share that is not mounted looks like an empty one.
create or replace function node_start(
    node_name text, node_boot uuid, node_pid integer, storage uuid default null, patience float8 default null,
    machine text default null, seen_epoch bigint default null, seen_lease bigint default null,
    out node integer, out address inet, out node_epoch bigint, out state host_state, out released integer[]
)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    runtime host_runtimes;
begin
    select h.id, h.address into node, address from hosts h where h.name = node_name;
    if node is null then
        raise exception 'no host is named %', node_name using errcode = 'QV010',
            hint = format('select host_create(%L, ''<address of this node in the VM network>'');', node_name);
    end if;
    if storage is not null then
        update hosts h set storage_id = storage where h.id = node and h.storage_id is null;
        if storage <> (select h.storage_id from hosts h where h.id = node) then
            raise exception 'host % had another storage than the one it has found', node_name
                using errcode = 'QV003', hint = format('Mount it. If it was replaced: '
                    'update hosts set storage_id = null where name = %L;', node_name);
        end if;
    end if;
    select * into runtime from host_runtimes where host_id = node for update;
    released := '{}';
    if runtime.boot_id is distinct from node_boot then
        if not coalesce(runtime.boot_id is null or runtime.machine_id = machine
            or (runtime.epoch, runtime.lease) = (seen_epoch, seen_lease), false)
            and (runtime.state in ('starting', 'running', 'stopping')
                or exists (select from vm_runtimes v where v.host_id = node and v.vm_state <> 'stopped'))
        then
            raise exception 'host % is another machine, and nobody has seen that it is off', node_name
                using errcode = 'QV002', hint = format('Give this machine a name of its own. If the other one is off for '
                    'good: select host_release(%L);', node_name);
        end if;
        released := host_forget(node, 'its node was restarted');
        update host_runtimes r set boot_id = node_boot, machine_id = machine, epoch = r.epoch + 1, state = 'starting', cmd = null
        where r.host_id = node;
    elsif runtime.state <> 'running' then
        -- One that was told to stop, and whose daemon died over it, goes on to stop.
        update host_runtimes r set state = 'starting',
            cmd = case when runtime.state in ('starting', 'stopping') then r.cmd end
        where r.host_id = node;
    end if;
    perform host_recount(node);
    update host_runtimes r
    set pid = node_pid, started_at = now(), ok_ts = now(), lease = r.lease + 1, patience = node_start.patience where r.host_id = node
    returning r.epoch, r.state into node_epoch, state;
end $$;

-- Which program runs the node, and the newest migration that it knows.
create or replace function node_program(node integer, node_epoch bigint, program text, schema integer) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform node_check(node, node_epoch);
    update host_runtimes r set program = node_program.program, program_schema = schema where r.host_id = node;
end $$;

-- Who was the node of that name last, for a machine that wants to be it. No row: there is no such host, or nobody was.
create or replace function node_former(node_name text)
returns table (
    host integer, boot_id uuid, machine_id text, epoch bigint, lease bigint, patience float8, lives boolean, vms bigint
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
        select h.id, r.boot_id, r.machine_id, r.epoch, r.lease, r.patience,
            r.state in ('starting', 'running', 'stopping'),
            (select count(*) from vm_runtimes v where v.host_id = h.id and v.vm_state <> 'stopped')
        from hosts h join host_runtimes r on r.host_id = h.id
        where h.name = node_name and r.boot_id is not null;
end $$;

create or replace function node_state(node integer, node_epoch bigint, becomes host_state) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    update host_runtimes set state = becomes, ok_ts = now(), lease = lease + 1,
        pid = case when becomes = 'stopped' then null else pid end,
        cmd = case when becomes = 'stopped' then null else cmd end
    where host_id = node and epoch = node_epoch;
    if not found then
        perform node_check(node, node_epoch);
    end if;
end $$;

-- A node serves. It says so again when the database may have forgotten that; whether it had. One that was told to stop
-- stays `stopping`.
create or replace function node_serves(node integer, node_epoch bigint) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    update host_runtimes set state = 'starting'
    where host_id = node and epoch = node_epoch and state in ('stopped', 'lost');
    update host_runtimes set state = 'running' where host_id = node and epoch = node_epoch and state = 'starting';
    if not found then
        perform node_check(node, node_epoch);
        return false;
    end if;
    return true;
end $$;

-- A sign of life with what the balancer wants to know: memory in all and free, processors and whether they are waited for,
-- why notifications are not relied upon and why the storage is not. Adds up what happened to the node meanwhile. Not worth
-- waiting for the disk. One statement asks for the epoch and renews, so that a node which is taken over at this moment does
-- not believe in its lease. Says whether VMs of lost nodes are to be started.
-- Every row of `host_changes` dies here. Only plain scans of its index mark dead entries, so that the next one need not look
-- at them again; others look at all that vacuum has not seen yet.
create or replace function node_lease(
    node integer, node_epoch bigint, ram real, cpu real, degraded text, storage_degraded text default null,
    free_ram real default null, cpu_pressure real default null
) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan set enable_bitmapscan = off set enable_seqscan = off as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    with changes as (delete from host_changes where host_id = node returning vms, failed_starts),
        added as (select coalesce(sum(vms), 0) as vms, coalesce(sum(failed_starts), 0) as failed_starts from changes)
    update host_runtimes r set ok_ts = now(), lease = r.lease + 1, usable_ram = ram, usable_cpu = cpu,
        free_ram = node_lease.free_ram, cpu_pressure = node_lease.cpu_pressure,
        vms = r.vms + a.vms,
        failed_starts = failed_starts_left(r.failed_starts, r.ok_ts) + a.failed_starts,
        events_degraded_reason = degraded,
        events_degraded_since = case when degraded is null then null else coalesce(r.events_degraded_since, now()) end,
        storage_degraded_reason = storage_degraded,
        storage_degraded_since =
            case when storage_degraded is null then null else coalesce(r.storage_degraded_since, now()) end
    from added a
    where r.host_id = node and r.epoch = node_epoch;
    if not found then
        perform node_check(node, node_epoch);
    end if;
    return exists (select from vm_runtimes where restart_due);
end $$;

-- Everything that running a VM takes. Secrets are in it: nobody but the functions below may look.
create or replace view node_vm with (security_barrier) as
    select s.vm_id, s.name, s.tenant_id, s.user_id, s.login, s.osf_id, s.memory, s.user_storage_size, d.id as di_id,
        d.path as di_path, s.di_tag, s.ip, s.secret, r.host_id, r.vm_state, r.vm_cmd, s.cpus, d.agent
    from vm_runtimes r
        join vm_specs s on s.vm_id = r.vm_id
        left join dis d on d.id = r.current_di_id;

create or replace function di_path(wanted integer) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    return (select path from dis where id = wanted);
end $$;

-- Takes every command that waits for a node and returns, for each, all that is needed to carry it out. Whoever calls
-- it, and how often, a command is taken once. The node says on which ports of the VM it will find agent and desktop.
-- What waits is found by a plain scan of an index, as in `node_lease`.
drop function if exists node_claim(integer, bigint);
create or replace function node_claim(node integer, node_epoch bigint, vma_port integer, x_port integer)
returns table (
    command vm_cmd, vm_id integer, name text, tenant_id integer, user_id integer, login text, osf_id integer,
    memory integer, user_storage_size integer, di_id integer, di_path text, di_tag text, ip inet, secret bytea,
    vm_state vm_state, cpus integer, agent text
)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan set enable_bitmapscan = off set enable_seqscan = off as $$
#variable_conflict use_column
begin
    return query
        with claimed as (
            update vm_runtimes r
            -- Whoever told it to stop may have said why.
            set vm_cmd = null, vm_reason = case r.vm_cmd when 'stop' then r.vm_reason end,
                vm_state = case r.vm_cmd when 'start' then 'starting' else 'stopping' end::vm_state,
                current_di_id = case r.vm_cmd when 'start' then s.di_id else r.current_di_id end,
                vm_address = s.ip, vm_vma_port = vma_port, vm_x_port = x_port
            from vm_specs s
            where r.host_id = node and r.vm_cmd is not null and s.vm_id = r.vm_id
                and exists (select from host_runtimes h where h.host_id = node and h.epoch = node_epoch)
            returning
                case r.vm_state when 'starting' then 'start' else 'stop' end::vm_cmd as vm_cmd, s.vm_id, s.name,
                s.tenant_id, s.user_id, s.login, s.osf_id, s.memory, s.user_storage_size, s.di_tag, s.ip, s.secret,
                r.current_di_id as di_id,
                -- A function, since a start has no need to open that table.
                case r.vm_state when 'starting' then s.di_path else di_path(r.current_di_id) end as di_path,
                -- Who stops it need not know.
                r.vm_state, s.cpus, coalesce(s.agent, 'auto') as agent
        ), audited as (
            insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments)
            select 'claim', 'vm', c.vm_id, c.login || '/' || c.name, c.tenant_id,
                jsonb_build_object('host', node, 'epoch', node_epoch, 'command', c.vm_cmd)
            from claimed c
        )
        select c.vm_cmd, c.vm_id, c.name, c.tenant_id, c.user_id, c.login, c.osf_id, c.memory,
            c.user_storage_size, c.di_id, c.di_path, c.di_tag, c.ip, c.secret, c.vm_state, c.cpus, c.agent
        from claimed c;
    if not found then
        perform node_check(node, node_epoch);
    end if;
end $$;

-- The VMs that the database believes on a node, for a daemon that has just begun.
create or replace function node_vms(node integer, node_epoch bigint) returns setof node_vm
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    return query select * from node_vm n where n.host_id = node and n.vm_state <> 'stopped';
end $$;

-- Writes the state of a VM, if it is still on the node and in one of the states expected. Says whether it was.
create or replace function node_vm_state(
    node integer, node_epoch bigint, vm integer, expected vm_state[], becomes vm_state, reason text default null
) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    update vm_runtimes r set vm_state = becomes,
        vm_reason = case becomes when 'running' then reason else coalesce(reason, r.vm_reason) end
    where r.vm_id = vm and r.host_id = node and r.vm_state = any (expected);
    return found;
end $$;

-- What lives on a node counts more than a database that has lost its last commits: a VM that is assigned nowhere is put on
-- record here as starting, with the secret that it has. Returns its state here; null: it is another node's, or nobody's.
create or replace function node_adopt(
    node integer, node_epoch bigint, vm integer, vma_port integer, x_port integer, secret bytea default null,
    image integer default null
) returns vm_state
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    state vm_state;
begin
    perform node_check(node, node_epoch);
    update vm_runtimes r
    set host_id = node, vm_state = 'starting', vm_cmd = null, restart_due = false,
        current_di_id = coalesce((select d.id from dis d where d.id = image), s.di_id),
        vm_address = s.ip, vm_vma_port = vma_port, vm_x_port = x_port
    from vm_specs s
    where r.vm_id = vm and s.vm_id = vm and r.vm_state = 'stopped' and coalesce(r.host_id, node) = node;
    if found then
        insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments)
        select 'adopt', 'vm', s.vm_id, s.login || '/' || s.name, s.tenant_id,
            jsonb_build_object('host', node, 'epoch', node_epoch)
        from vm_specs s where s.vm_id = vm;
    end if;
    select r.vm_state into state from vm_runtimes r where r.vm_id = vm and r.host_id = node;
    if state is not null then
        update vm_specs s set secret = node_adopt.secret where s.vm_id = vm and s.secret <> node_adopt.secret;
    end if;
    return state;
end $$;

-- Beats for the cluster when the last beat is older than `age`. Says whether the caller was the one.
create or replace function beat_try(age interval) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    -- A losing contender must not wait for the winner's lock.
    perform from beat where at < clock_timestamp() - age for update skip locked;
    if not found then
        return false;
    end if;
    update beat set at = clock_timestamp(), number = number + 1;
    return true;
end $$;
