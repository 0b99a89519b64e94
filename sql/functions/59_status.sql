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

-- All nodes, each as `node_status` and its host list show it, and the server that they share; for superadministrators who may
-- see how nodes are.
create or replace function cluster_status() returns jsonb
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    perform demand_superadministrator('how all nodes are');
    perform demand('host.see.state.');
    return jsonb_build_object(
        'nodes', (
            select coalesce(jsonb_object_agg(h.name, jsonb_build_object(
                'database', node_status(h.id) - 'notification_queue_usage',
                'trouble', r.events_degraded_reason,
                'node', jsonb_build_object(
                    'running', r.state = 'running' and r.ok_ts > now() - b.lapse,
                    'blocked', r.blocked,
                    'degraded', r.storage_degraded_since is not null,
                    'sign_age_s', extract(epoch from now() - r.ok_ts),
                    'free_memory_bytes', r.free_ram * 1024000,
                    'cpu_pressure', r.cpu_pressure,
                    'failed_starts', failed_starts_left(r.failed_starts, r.ok_ts)))), '{}')
            from hosts h join host_runtimes r on r.host_id = h.id, balancer b),
        'server', (
            select jsonb_build_object(
                'notification_queue_usage', pg_notification_queue_usage(),
                'connections', (select sum(numbackends) from pg_stat_database),
                'max_connections', current_setting('max_connections')::integer,
                'commits', d.xact_commit, 'rollbacks', d.xact_rollback, 'deadlocks', d.deadlocks,
                'size_bytes', pg_database_size(d.datname))
            from pg_stat_database d where d.datname = current_database()));
end $$;
