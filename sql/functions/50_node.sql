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
-- runs stays its own. Another boot begins a new epoch: everything that ran is dead. While the old life still gives
-- signs, another machine of the same name is refused.
create or replace function node_start(
    node_name text, node_boot uuid, node_pid integer,
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
    select * into runtime from host_runtimes where host_id = node for update;
    released := '{}';
    if runtime.boot_id is distinct from node_boot then
        if runtime.state in ('starting', 'running') and runtime.ok_ts
            > now() - config_get('internal.hkd.lease.lapse')::float8 * interval '1 second' then
            raise exception 'a host named % gives signs of life from another machine', node_name
                using errcode = 'QV002', hint = 'Give this machine a name of its own, or wait until the other is off.';
        end if;
        with freed as (
            update vm_runtimes v set vm_state = 'stopped', vm_reason = 'its node was restarted'
            where v.host_id = node and v.vm_state <> 'stopped' returning v.vm_id)
        select coalesce(array_agg(vm_id), '{}') into released from freed;
        update host_runtimes r set boot_id = node_boot, epoch = r.epoch + 1, state = 'starting' where r.host_id = node;
    elsif runtime.state <> 'running' then
        update host_runtimes r set state = 'starting' where r.host_id = node;
    end if;
    update host_runtimes r set pid = node_pid, ok_ts = now(), lease = r.lease + 1 where r.host_id = node
    returning r.epoch, r.state into node_epoch, state;
end $$;

create or replace function node_state(node integer, node_epoch bigint, becomes host_state) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    update host_runtimes set state = becomes, ok_ts = now(), lease = lease + 1,
        pid = case when becomes = 'stopped' then null else pid end
    where host_id = node;
end $$;

-- A sign of life with what the balancer wants to know. Not worth waiting for the disk.
create or replace function node_lease(
    node integer, node_epoch bigint, ram real, cpu real, degraded text
) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    perform set_config('synchronous_commit', 'off', true);
    update host_runtimes set ok_ts = now(), lease = lease + 1, usable_ram = ram, usable_cpu = cpu,
        events_degraded_reason = degraded,
        events_degraded_since = case when degraded is null then null else coalesce(events_degraded_since, now()) end
    where host_id = node;
end $$;

-- Everything that running a VM takes. Secrets are in it: nobody but the functions below may look.
create or replace view node_vm with (security_barrier) as
    select v.id as vm_id, v.name, u.tenant_id, u.id as user_id, u.login, o.id as osf_id, o.memory, o.user_storage_size,
        d.id as di_id, d.path as di_path, v.di_tag, v.ip, s.secret, r.host_id, r.vm_state, r.vm_cmd
    from vm_runtimes r
        join vms v on v.id = r.vm_id
        join users u on u.id = v.user_id
        join osfs o on o.id = v.osf_id
        left join dis d on d.id = r.current_di_id
        left join vm_secrets s on s.vm_id = r.vm_id;

-- Takes every command that waits for a node and returns, for each, all that is needed to carry it out. Whoever calls
-- it, and how often, a command is taken once.
create or replace function node_claim(node integer, node_epoch bigint)
returns table (command vm_cmd, vm node_vm)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    if not exists (select from host_runtimes where host_id = node and epoch = node_epoch) then
        perform node_check(node, node_epoch);
    end if;
    return query
        with waiting as (
            select r.vm_id, r.vm_cmd from vm_runtimes r
            where r.host_id = node and r.vm_cmd is not null for no key update
        ), claimed as (
            update vm_runtimes r
            set vm_cmd = null,
                vm_state = case w.vm_cmd when 'start' then 'starting' else 'stopping' end::vm_state,
                vm_reason = null,
                current_di_id = case w.vm_cmd
                    when 'start' then (
                        select d.di_id from startable_dis d where d.vm_id = r.vm_id
                        order by d.published desc, d.di_id desc limit 1)
                    else r.current_di_id end
            from waiting w where r.vm_id = w.vm_id
            returning r.vm_id, w.vm_cmd, r.vm_state, r.current_di_id
        ), secret as (
            insert into vm_secrets as s (vm_id, secret)
            select c.vm_id, uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
            from claimed c where c.vm_cmd = 'start'
            on conflict (vm_id) do update set secret = excluded.secret
            returning s.vm_id, s.secret
        ), counted as (
            update vm_counters n set run_attempts = run_attempts + 1
            from claimed c where n.vm_id = c.vm_id and c.vm_cmd = 'start'
        ), told as materialized (
            select c.vm_cmd, v.id, v.name, u.tenant_id, u.id as user_id, u.login, o.id as osf_id, o.memory,
                o.user_storage_size, d.id as di_id, d.path, v.di_tag, v.ip, s.secret, c.vm_state
            from claimed c
                join vms v on v.id = c.vm_id
                join users u on u.id = v.user_id
                join osfs o on o.id = v.osf_id
                left join dis d on d.id = c.current_di_id
                left join secret s on s.vm_id = c.vm_id
        ), audited as (
            insert into log (action, qvd_object, object_id, object_name, tenant_id, arguments)
            select 'claim', 'vm', t.id, t.login || '/' || t.name, t.tenant_id,
                jsonb_build_object('host', node, 'epoch', node_epoch, 'command', t.vm_cmd)
            from told t
        )
        select t.vm_cmd, row(t.id, t.name, t.tenant_id, t.user_id, t.login, t.osf_id, t.memory, t.user_storage_size,
            t.di_id, t.path, t.di_tag, t.ip, t.secret, node, t.vm_state, null::vm_cmd)::node_vm
        from told t;
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
    update vm_runtimes r set vm_state = becomes, vm_reason = coalesce(reason, r.vm_reason)
    where r.vm_id = vm and r.host_id = node and r.vm_state = any (expected);
    if not found then
        return false;
    end if;
    if becomes = 'running' then
        update vm_counters c set run_ok = run_ok + 1 where c.vm_id = vm and 'starting' = any (expected);
    end if;
    return true;
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
