-- Balancers: which node takes a VM. `l7r.loadbalancer.plugin` names one, a function place_<name>(vm integer). What they look
-- at grows with the number of nodes, not of VMs, and none writes anything, so that starts do not wait for each other.

-- The nodes that can take VMs, and how loaded they are at this moment. The planner expects hardly any node to run and to have
-- given a sign of life so lately, and would compare each with each: an uncorrelated `not in` is hashed, and what is joined in
-- full is hashed or sorted, whatever it expects.
create or replace view host_loads as
    select r.host_id, r.usable_ram, r.usable_cpu, r.free_ram, r.cpu_pressure,
        r.vms + coalesce(c.vms, 0) as vms,
        -- What came since it said how much memory is free.
        greatest(c.vms, 0) as given,
        failed_starts_left(r.failed_starts, r.ok_ts) + coalesce(c.failed_starts, 0) as failed_starts
    from (
            select *, true as takes from host_runtimes
            where not blocked and state = 'running' and storage_degraded_since is null
                and ok_ts > now() - (select lapse from balancer)
                and host_id not in (select id from hosts where not backend)
        ) r
        full join (
            select host_id, sum(vms) as vms, sum(failed_starts) as failed_starts
            from host_changes group by host_id
        ) c on c.host_id = r.host_id
    -- `r.takes` alone would be taken for reason to join it from the left.
    where coalesce(r.takes, false);

-- The classic formula: memory and processors per VM, by weight, plus chance.
create or replace function place_default(vm integer) returns integer
language plpgsql volatile set plan_cache_mode = force_generic_plan as $$
declare
    b qvd.balancer;
begin
    select * into b from qvd.balancer;
    return (
        select l.host_id from qvd.host_loads l
        order by (b.ram_weight * coalesce(l.usable_ram, 0) + b.cpu_weight * coalesce(l.usable_cpu, 0)) / (1 + l.vms)
            + random() * b.random_weight desc
        limit 1);
end $$;

-- The same share of the node, but of that part of it which is free: memory that is available; processors that are always
-- waited for count half. Every start that failed lately halves it. Where the VM does not fit into free memory it goes only
-- when it fits nowhere. In place of chance nodes take turns: it is as if a node had up to a VM and a twentieth of its VMs more
-- per unit of the weight of chance, the less the sooner it is its turn, so that starts at the same moment, which do not see
-- each other, spread evenly. When it is asked for, a VM goes where its user has others, if it fits. What a node got since it
-- said how much memory is free counts where it is asked whether one more fits, but not in its share: else whoever said so
-- last would get most.
create or replace function place_load(spec qvd.vm_specs, b qvd.balancer) returns integer
language plpgsql volatile set plan_cache_mode = force_generic_plan as $$
declare
    turn bigint := nextval('qvd.placements');
    beside integer[] := '{}';
begin
    if b.same_user then
        beside := array(
            select r.host_id
            from qvd.vms own join qvd.vms v on v.user_id = own.user_id join qvd.vm_runtimes r on r.vm_id = v.id
            where own.id = spec.vm_id and r.host_id is not null);
    end if;
    return (
        select l.host_id
        from (
            select host_id, vms, failed_starts,
                greatest(b.ram_weight * coalesce(usable_ram, 0) + b.cpu_weight * coalesce(usable_cpu, 0), 1) as size,
                coalesce(free_ram, usable_ram, 0) - given * spec.memory >= spec.memory as fits,
                coalesce(free_ram, usable_ram, 0) / greatest(coalesce(usable_ram, 0), 1) as free,
                1 + coalesce(cpu_pressure, 0) as pressure,
                (row_number() over nodes + turn) % count(*) over nodes / (count(*) over nodes)::float8 as wait
            from qvd.host_loads
            window nodes as (order by host_id rows between unbounded preceding and unbounded following)
        ) l
        order by l.fits and l.host_id = any (beside) desc,
            l.fits desc,
            l.size * least(l.free, 1) / l.pressure * 0.5 ^ least(l.failed_starts, 50)
                / (1 + l.vms + l.wait * b.random_weight * (1 + l.vms / 20.0::float8)) desc
        limit 1);
end $$;

-- The same for whoever has not read them yet, such as a balancer of somebody's own that falls back on it.
create or replace function place_load(vm integer) returns integer
language plpgsql volatile as $$
begin
    return (select qvd.place_load(s, b) from qvd.vm_specs s, qvd.balancer b where s.vm_id = vm);
end $$;

-- Chooses a node: where the user's home is in use, or else with the balancer that is configured.
drop function if exists place(integer);
create or replace function place(spec qvd.vm_specs) returns integer
language plpgsql volatile as $$
declare
    b qvd.balancer;
    chosen integer;
begin
    select * into b from qvd.balancer;
    if b.same_home then
        chosen := (
            select r.host_id
            from qvd.vms own join qvd.vms v on v.user_id = own.user_id join qvd.vm_runtimes r on r.vm_id = v.id
                join qvd.host_loads l on l.host_id = r.host_id
            where own.id = spec.vm_id limit 1);
    end if;
    if chosen is not null then
        return chosen;
    end if;
    if b.plugin = 'load' then
        chosen := qvd.place_load(spec, b);
    elsif b.plugin = 'default' then
        chosen := qvd.place_default(spec.vm_id);
    else
        execute format('select qvd.%I($1)', 'place_' || b.plugin) into chosen using spec.vm_id;
    end if;
    if chosen is null then
        raise exception 'no host can take VM %', qvd.vm_name(spec.vm_id)
            using errcode = 'QV030', hint = 'A host must be running, not blocked and a back end: select * from host_list;';
    end if;
    return chosen;
end $$;

-- Counts the VMs of a node anew, whatever was counted before.
create or replace function host_recount(node integer) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    -- One statement, so that what it counts and what it takes away are of the same moment.
    with counted as (delete from host_changes where host_id = node)
    update host_runtimes set vms = (select count(*) from vm_runtimes r where r.host_id = node) where host_id = node;
end $$;
