-- What the overview of the web tool draws: each part only with its ACL, of what the policies let through. It reads the VMs
-- and users there are, and of what was no more than the last hour.

-- `vm_states` {state: VMs}; `vms` and `users` {all, blocked}; `hosts` [the most loaded]; `expiring` {all, first: [VMs]};
-- `logins` [[minute, sessions], ..] of an hour, in UTC; `events`, for superadministrators.
create or replace function overview() returns jsonb
language plpgsql stable set search_path = qvd, pg_temp as $$
declare
    found jsonb := '{}';
begin
    if can('vm.stats.running-vms.') then
        found := found || jsonb_build_object('vm_states', (
            select coalesce(jsonb_object_agg(s.vm_state, s.n), '{}')
            from (select r.vm_state, count(*) as n from vm_runtimes r group by 1) s));
    end if;
    if can('vm.stats.blocked.') then
        found := found || jsonb_build_object('vms', (
            select jsonb_build_object('all', count(*), 'blocked', count(*) filter (where r.blocked)) from vm_runtimes r));
    end if;
    if can('user.stats.blocked.') then
        found := found || jsonb_build_object('users', (
            select jsonb_build_object('all', count(*), 'blocked', count(*) filter (where u.blocked)) from users u));
    end if;
    -- Of nodes that run; what is nearer to its end counts, memory or processors.
    if can('host.stats.top-hosts-most-vms.') then
        found := found || jsonb_build_object('hosts', (
            select coalesce(jsonb_agg(to_jsonb(l) order by greatest(l.memory, l.processors) desc nulls last, l.vms desc, l.name), '[]')
            from (
                select h.id, h.name,
                    r.vms + (select coalesce(sum(c.vms), 0) from host_changes c where c.host_id = h.id) as vms,
                    least(greatest(1 - r.free_ram / nullif(r.usable_ram, 0), 0), 1) as memory,
                    least(greatest(r.cpu_pressure, 0), 1) as processors
                from hosts h join host_runtimes r on r.host_id = h.id
                where r.state = 'running'
                order by greatest(1 - r.free_ram / nullif(r.usable_ram, 0), r.cpu_pressure) desc nulls last, 3 desc, h.name
                limit 10) l));
    end if;
    if can('vm.stats.close-to-expire.') then
        found := found || jsonb_build_object('expiring', (
            with waiting as materialized (
                select r.vm_id, r.vm_expiration_soft as soft, r.vm_expiration_hard as hard, n.next
                from vm_runtimes r, lateral (
                    select min(m.moment) as next
                    from (values (r.vm_expiration_soft), (r.vm_expiration_hard)) m (moment)
                    where m.moment > now() and isfinite(m.moment)) n
                where (r.vm_expiration_soft is not null or r.vm_expiration_hard is not null) and n.next is not null)
            select jsonb_build_object('all', (select count(*) from waiting), 'first', (
                select coalesce(jsonb_agg(jsonb_build_object(
                        'id', f.vm_id, 'vm', u.login || '@' || t.name || '/' || v.name,
                        'soft', to_char(f.soft at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
                        'hard', to_char(f.hard at time zone 'UTC', 'YYYY-MM-DD HH24:MI')) order by f.next, f.vm_id), '[]')
                from (select * from waiting w order by w.next, w.vm_id limit 10) f
                    join vms v on v.id = f.vm_id join users u on u.id = v.user_id join tenants t on t.id = v.tenant_id))));
    end if;
    if can('user.stats.connected-users.') then
        found := found || jsonb_build_object('logins', (
            select jsonb_agg(jsonb_build_array(to_char(m.minute at time zone 'UTC', 'HH24:MI'), coalesce(s.n, 0)) order by m.minute)
            from generate_series(date_trunc('minute', now()) - interval '59 minutes', now(), interval '1 minute') m (minute)
                left join (
                    select date_trunc('minute', o.started_at) as minute, count(*) as n
                    from user_sessions o where o.started_at >= date_trunc('minute', now()) - interval '59 minutes'
                    group by 1) s on s.minute = m.minute));
    end if;
    if (select sees_all()) and can('host.see.state.') then
        found := found || jsonb_build_object('events', (
            select jsonb_build_object('queue', pg_notification_queue_usage(), 'degraded', coalesce(
                jsonb_agg(jsonb_build_object('id', h.id, 'name', h.name, 'reason', r.events_degraded_reason) order by h.name)
                    filter (where r.events_degraded_reason is not null), '[]'))
            from hosts h join host_runtimes r on r.host_id = h.id where r.state = 'running'));
    end if;
    return found;
end $$;
