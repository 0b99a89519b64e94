-- How routers of different nodes meet where every node has a VM network of its own (`vm.network.mode = routed`).

-- A router says where and by which key other nodes find it.
create or replace function l7r_listens(by_instance bigint, port integer, public_key bytea) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    update l7r_instances set node_port = port, node_key = public_key where id = by_instance and ended_at is null;
    if not found then
        raise exception 'L7R instance % has ended', by_instance using errcode = 'QV001';
    end if;
end $$;

-- The nodes on record, with each router of theirs that takes connections of others.
create or replace function l7r_nodes()
returns table (node integer, address inet, instance bigint, port integer, public_key bytea)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return query select h.id, h.address, i.id, i.node_port, i.node_key
    from hosts h left join l7r_instances i on i.host_id = h.id and i.ended_at is null and i.node_key is not null;
end $$;

-- The node of a session's VM, and of its routers the one that came last, if there is one. Without a node the session or its
-- VM has none any more.
create or replace function l7r_road(
    wanted bigint, out node integer, out address inet, out instance bigint, out port integer, out public_key bytea
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    select h.id, h.address, i.id, i.node_port, i.node_key into node, address, instance, port, public_key
    from vm_runtimes r join hosts h on h.id = r.host_id
        left join l7r_instances i on i.host_id = h.id and i.ended_at is null and i.node_key is not null
    where r.vm_id = session_vm(wanted) and r.session_id = wanted
    order by i.id desc nulls last limit 1;
end $$;

-- Whether the router of another node may come to a VM of this one, and where the VM listens. Without an address it does not
-- run here.
create or replace function l7r_passage(
    peer bigint, at_node integer, vm integer,
    out admitted boolean, out address inet, out vma_port integer, out x_port integer
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    admitted := exists (
        select from l7r_instances i join host_runtimes h on h.host_id = i.host_id
        where i.id = peer and i.ended_at is null and not h.blocked);
    select r.vm_address, r.vm_vma_port, r.vm_x_port into address, vma_port, x_port
    from vm_runtimes r where r.vm_id = vm and r.host_id = at_node and r.vm_state = 'running';
end $$;

-- The addresses of all nodes, for the packet filter.
create or replace function node_addresses() returns setof inet
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return query select h.address from hosts h order by 1;
end $$;
