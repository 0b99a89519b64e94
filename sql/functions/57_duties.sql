-- What a node has to do apart from commands of VMs: obey an order about itself, and let VMs expire.

-- From when on a VM is told to log out, and when it is stopped. Null for never; both null to let it live.
create or replace function vm_expire(vm integer, soft timestamptz, hard timestamptz default null) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target vm_runtimes;
begin
    select * into target from vm_runtimes where vm_id = vm for update;
    if target.vm_id is null or not reaches(target.tenant_id) then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    perform demand('vm.update.expiration.');
    if target.vm_state = 'stopped' and coalesce(soft, hard) is not null then
        raise exception 'VM % is stopped and cannot expire', vm_name(vm)
            using errcode = 'QV021', hint = 'Only a run of a VM expires; the next one does not.';
    elsif hard < soft then
        raise exception 'VM % would be stopped before it is told', vm_name(vm)
            using errcode = 'QV014', hint = 'The hard expiration comes after the soft one.';
    elsif not (isfinite(coalesce(soft, hard, now())) and isfinite(coalesce(hard, soft, now()))) then
        raise exception 'an expiration has a date' using errcode = 'QV014', hint = 'For never, leave it out.';
    end if;
    update vm_runtimes set vm_expiration_soft = soft, vm_expiration_hard = hard where vm_id = vm;
    return vm;
end $$;

create or replace function vm_expire(vm text, soft timestamptz, hard timestamptz default null) returns integer
language sql as $$ select vm_expire(vm_id(vm), soft, hard) $$;

-- A time as the agent is told it: UTC, as classic QVD writes it; empty for never.
create or replace function agent_time(at timestamptz) returns text
language sql immutable parallel safe as $$
    select coalesce(to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'), '')
$$;

-- The order for the node; the VMs that must be told that they expire, which is repeated every `remind` seconds; seconds
-- until the next VM expires. VMs whose time is over are told to stop.
create or replace function node_duties(
    node integer, node_epoch bigint, remind float8,
    out command host_cmd, out vms integer[], out softs text[], out hards text[], out next_in float8
)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    at timestamptz := clock_timestamp();
    over integer;
begin
    select r.cmd into command from host_runtimes r where r.host_id = node and r.epoch = node_epoch;
    if not found then
        perform node_check(node, node_epoch);
    end if;
    for over in
        select r.vm_id from vm_runtimes r
        where r.host_id = node and r.vm_expiration_hard <= at and r.vm_cmd is null
            and vm_command_allowed(r.vm_state, 'stop')
        order by r.vm_id for update
    loop
        update vm_runtimes r set vm_cmd = 'stop', vm_reason = 'it expired' where r.vm_id = over;
    end loop;
    select array_agg(r.vm_id), array_agg(agent_time(r.vm_expiration_soft)), array_agg(agent_time(r.vm_expiration_hard))
    into vms, softs, hards
    from vm_runtimes r
    where r.host_id = node and r.vm_expiration_soft <= at and r.vm_state in ('starting', 'running', 'debugging')
        and r.vm_cmd is null
        and (r.vm_expiration_told is null or r.vm_expiration_told + remind * interval '1 second' <= at);
    select min(extract(epoch from moment - at)) into next_in
    from vm_runtimes r, lateral (values
            (r.vm_expiration_hard),
            (case when r.vm_expiration_told is null then r.vm_expiration_soft
                else r.vm_expiration_told + remind * interval '1 second' end)) m (moment)
    where r.host_id = node and (r.vm_expiration_soft is not null or r.vm_expiration_hard is not null)
        and moment > at and isfinite(moment);
end $$;

-- The agent of a VM knows that the VM expires at `soft`.
create or replace function node_vm_told(node integer, node_epoch bigint, vm integer, soft text) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    update vm_runtimes r set vm_expiration_told = clock_timestamp()
    where r.vm_id = vm and r.host_id = node and agent_time(r.vm_expiration_soft) = soft;
end $$;

-- Tells a node to stop, with all its VMs. It goes on to do so when its daemon is started again meanwhile.
create or replace function host_stop(wanted text) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target host_runtimes;
begin
    perform demand_superadministrator('stopping hosts');
    perform demand('host.update.stop-vms.');
    select r.* into target from host_runtimes r join hosts h on h.id = r.host_id where h.name = wanted for update of r;
    if target.host_id is null then
        raise exception 'there is no host %', wanted using errcode = 'QV010', hint = 'select name from hosts;';
    elsif target.state in ('stopped', 'lost') then
        raise exception 'host % is % and cannot be told to stop', wanted, target.state
            using errcode = 'QV021', hint = 'select * from host_list;';
    elsif target.cmd is null then
        update host_runtimes set cmd = 'stop' where host_id = target.host_id;
    end if;
    return target.host_id;
end $$;

-- A node obeys the order to stop: it takes nothing new, and the sessions of its routers end; with `vms` its VMs are told
-- to stop, too. Called again and again. Returns how many of these sessions are left.
create or replace function node_stopping(node integer, node_epoch bigint, vms boolean) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    update host_runtimes r set state = 'stopping'
    where r.host_id = node and r.epoch = node_epoch and r.state in ('starting', 'running');
    if not found then
        perform node_check(node, node_epoch);
    end if;
    update vm_runtimes r set user_cmd = 'abort'
    where r.l7r_host_id = node and r.user_state <> 'disconnected' and r.user_cmd is null;
    if vms then
        -- What was not begun is nobody's.
        update vm_runtimes r set vm_cmd = null, host_id = null, vm_reason = 'its node was told to stop'
        where r.host_id = node and r.vm_state = 'stopped' and r.vm_cmd = 'start';
        update vm_runtimes r set vm_cmd = 'stop', vm_reason = 'its node was told to stop'
        where r.host_id = node and r.vm_cmd is null and vm_command_allowed(r.vm_state, 'stop');
    end if;
    return (select count(*) from vm_runtimes r where r.l7r_host_id = node and r.user_state <> 'disconnected');
end $$;
