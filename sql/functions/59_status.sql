-- What a node shows of itself beyond what its hkd counts: the queue of notifications, its VMs and sessions, and what its
-- routers have added up. Asked when somebody looks.
create or replace function node_status(node integer) returns jsonb
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    return jsonb_build_object(
        'notification_queue_usage', pg_notification_queue_usage(),
        'vm_states', (
            select coalesce(jsonb_object_agg(vm_state, n), '{}')
            from (select r.vm_state, count(*) as n from vm_runtimes r where r.host_id = node group by 1) states),
        'sessions', (select count(*) from vm_runtimes r where r.l7r_host_id = node),
        'router', (select to_jsonb(c) - 'host_id' from host_counters c where c.host_id = node),
        'tunnels', (
            select coalesce(jsonb_object_agg(c.tunnel, to_jsonb(c) - 'host_id' - 'tunnel'), '{}')
            from tunnel_counters c where c.host_id = node),
        'session_ends', (
            select coalesce(jsonb_object_agg(c.reason, c.sessions), '{}') from end_counters c where c.host_id = node));
end $$;
