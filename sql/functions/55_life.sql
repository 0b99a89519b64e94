-- Signs of life: what the nodes that share a storage see of each other, and what becomes of one that gives none. Whether
-- a node is dead is decided by those who watch it, with their own clocks; the clock of the database decides nothing.

-- The storage that a node had when it first started; null when it never did.
create or replace function node_storage(node_name text) returns uuid
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (select storage_id from hosts where name = node_name);
end $$;

-- The address of a node in the VM network, for whoever looks at its machine and is not to be the node. Null: there is none
-- of that name.
create or replace function node_address(node_name text) returns inet
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    return (select address from hosts where name = node_name);
end $$;

-- Whether a claim of that host and epoch on a home is void: the node has another epoch, or is no more.
create or replace function epoch_is_over(node integer, node_epoch bigint) returns boolean
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return not exists (select from host_runtimes where host_id = node and epoch = node_epoch);
end $$;

-- The nodes that a node watches: those that use the same storage and should live, as far as the next ones in a ring,
-- so that what a large cluster spends on watching grows with its size and not with the square.
create or replace function node_peers(node integer, node_epoch bigint)
returns table (host integer, name text, epoch bigint, lease bigint, patience float8)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    perform node_check(node, node_epoch);
    return query
        with me as (select h.storage_id from hosts h where h.id = node)
        select id, name, epoch, lease, patience from (
            -- Each half is read in the order of an index and no further than it must.
            (select h.id, h.name, r.epoch, r.lease, r.patience, false as around
            from hosts h join host_runtimes r on r.host_id = h.id
            where h.storage_id = (select storage_id from me) and h.id > node
                and r.state in ('starting', 'running', 'stopping') and r.patience is not null
            order by h.id limit 16)
            union all
            (select h.id, h.name, r.epoch, r.lease, r.patience, true
            from hosts h join host_runtimes r on r.host_id = h.id
            where h.storage_id = (select storage_id from me) and h.id < node
                and r.state in ('starting', 'running', 'stopping') and r.patience is not null
            order by h.id limit 16)
        ) ring order by around, id limit 16;
end $$;

-- The routers of a node that have not ended: hkd, which runs beside them, sees whether they live.
create or replace function node_routers(node integer, node_epoch bigint)
returns table (instance bigint, boot_id uuid, pid integer, pid_start bigint)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    perform node_check(node, node_epoch);
    return query select id, boot_id, pid, pid_start from l7r_instances where host_id = node and ended_at is null;
end $$;

-- Ends what routers of a node left that are proven gone. Returns how many sessions that were.
create or replace function node_routers_gone(node integer, node_epoch bigint, gone bigint[]) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    return l7r_gone(array(select id from l7r_instances where host_id = node and id = any (gone)), 'its router died');
end $$;

-- Frees everything that is on record for a node whose processes are all dead. VMs that are to be kept running, and those
-- whose start it had not begun, are due elsewhere. Returns the VMs that were up.
create or replace function host_forget(node integer, reason text) returns integer[]
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    released integer[];
begin
    update vm_runtimes r set vm_cmd = null, host_id = null, restart_due = true
    where r.host_id = node and r.vm_state = 'stopped' and r.vm_cmd = 'start';
    with freed as (
        update vm_runtimes r set vm_state = 'stopped', vm_reason = reason,
            restart_due = v.keep_running and r.vm_state <> 'stopping' and r.vm_cmd is distinct from 'stop'
        from vms v where v.id = r.vm_id and r.host_id = node and r.vm_state <> 'stopped' returning r.vm_id)
    select coalesce(array_agg(vm_id order by vm_id), '{}') into released from freed;
    -- The sessions of its routers are free. A router that lives all the same may go on with others.
    update vm_runtimes set user_state = 'disconnected' where l7r_host_id = node and user_state <> 'disconnected';
    update user_sessions s set ended_at = now(), end_reason = reason
    where s.ended_at is null
        and s.l7r_instance in (select i.id from l7r_instances i where i.host_id = node and i.ended_at is null);
    perform host_recount(node);
    return released;
end $$;

-- Takes the VMs of a silent node from it, if its lease is still the one that the observer saw standing. The new epoch makes
-- everything void that the old one may still write. Returns the VMs that were released; null: it is not as it was seen.
create or replace function node_take_over(
    node integer, node_epoch bigint, silent integer, silent_epoch bigint, seen_lease bigint
) returns integer[]
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    released integer[];
begin
    perform node_check(node, node_epoch);
    update host_runtimes r set epoch = r.epoch + 1, state = 'lost', pid = null, cmd = null
    where r.host_id = silent and r.epoch = silent_epoch and r.lease = seen_lease
        and r.state in ('starting', 'running', 'stopping')
        and exists (select from hosts h join hosts me on me.storage_id = h.storage_id where h.id = silent and me.id = node);
    if not found then
        return null;
    end if;
    released := host_forget(silent, 'its node gave no more signs of life');
    perform audit('take over', 'host', silent, (select name from hosts where id = silent), 0,
        jsonb_build_object('by', node, 'epoch', silent_epoch, 'vms', to_jsonb(released)));
    perform vms_restart();
    return released;
end $$;

-- Starts VMs whose node was lost, as far as nodes can take them. Called again and again.
create or replace function vms_restart() returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    due integer;
    started integer := 0;
begin
    for due in select vm_id from vm_runtimes where restart_due order by vm_id for update skip locked limit 100 loop
        begin
            perform vm_start_found(s) from vm_specs s where s.vm_id = due;
            started := started + 1;
        exception
            when sqlstate 'QV030' then
                return started; -- the others would not be taken either
            when sqlstate 'QV031' then
                update vm_runtimes set restart_due = false, vm_reason = sqlerrm where vm_id = due;
            when others then
                -- A balancer of somebody's own that is broken does not keep the VMs of a dead node from others.
                update vm_runtimes set vm_reason = sqlerrm where vm_id = due;
        end;
    end loop;
    return started;
end $$;

-- An administrator knows that a node is off, or that none of its VMs lives: they are free at once. A node that still
-- renews its lease is not released.
create or replace function host_release(wanted text) returns integer[]
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    node integer;
    released integer[];
begin
    perform demand_superadministrator('releasing hosts');
    perform demand('host.update.stop-vms.');
    select id into node from hosts where name = wanted;
    if node is null then
        raise exception 'there is no host %', wanted using errcode = 'QV010', hint = 'select name from hosts;';
    end if;
    update host_runtimes r set epoch = r.epoch + 1, pid = null, cmd = null,
        state = case r.state when 'stopped' then 'stopped' else 'lost' end::host_state
    where r.host_id = node and (r.state in ('stopped', 'lost') or r.ok_ts is null
        or r.ok_ts < now() - config_get('internal.hkd.lease.lapse')::float8 * interval '1 second');
    if not found then
        raise exception 'host % gives signs of life', wanted
            using errcode = 'QV022', hint = 'Only a node that is switched off can be released: its VMs may start elsewhere.';
    end if;
    released := host_forget(node, 'its node was released by an administrator');
    perform audit('release', 'host', node, wanted, 0, jsonb_build_object('vms', to_jsonb(released)));
    perform vms_restart();
    return released;
end $$;
