-- What administrators look at. Dropped and made again at each change, since columns come and go.

drop view if exists vm_list, host_list, session_list, user_list, di_list, staging_list, tunnel_list, end_list;

create view vm_list as
    select v.id, u.login || '@' || t.name || '/' || v.name as vm,
        r.vm_state as state, r.user_state, r.vm_cmd as command, h.name as host, r.blocked,
        o.name as osf, v.di_tag as tag, d.version as di_in_use, v.ip,
        r.vm_state_ts as since, r.vm_reason as reason,
        r.vm_expiration_soft as expiration_soft, r.vm_expiration_hard as expiration_hard, v.keep_running
    from vms v
        join vm_runtimes r on r.vm_id = v.id
        join users u on u.id = v.user_id
        join tenants t on t.id = u.tenant_id
        join osfs o on o.id = v.osf_id
        left join hosts h on h.id = r.host_id
        left join dis d on d.id = r.current_di_id
    order by t.name, u.login, v.name;

create view host_list as
    select h.id, h.name as host, r.state, r.blocked, h.address, h.backend, h.frontend,
        r.vms + (select coalesce(sum(c.vms), 0) from host_changes c where c.host_id = h.id) as vms,
        (select count(*) from vm_runtimes v where v.l7r_host_id = h.id) as sessions,
        now() - r.ok_ts as last_sign_of_life, r.epoch, r.events_degraded_since, r.events_degraded_reason,
        r.storage_degraded_since, r.storage_degraded_reason,
        (select l.problem from l7r_instances l where l.host_id = h.id and l.ended_at is null order by l.id desc limit 1)
            as router_problem
    from hosts h join host_runtimes r on r.host_id = h.id
    order by h.name;

create view session_list as
    select s.id, s.login || '@' || t.name || '/' || s.vm_name as vm, s.client_address as client,
        h.name as host, l.name as router, s.started_at, s.connected_at, s.ended_at,
        coalesce(s.ended_at, now()) - s.started_at as duration,
        s.bytes_up, s.bytes_down, s.tunnel, s.end_reason
    from user_sessions s
        left join tenants t on t.id = s.tenant_id
        left join hosts h on h.id = s.host_id
        left join hosts l on l.id = s.l7r_host_id
    order by s.started_at desc, s.id desc;

create view user_list as
    select u.id, u.login || '@' || t.name as "user", u.blocked or t.blocked as blocked, u.password is not null as has_password,
        (select count(*) from vms v where v.user_id = u.id) as vms,
        (select count(*) from vms v join vm_runtimes r on r.vm_id = v.id
            where v.user_id = u.id and r.user_state = 'connected') as connected
    from users u join tenants t on t.id = u.tenant_id
    order by t.name, u.login;

create view di_list as
    select d.id, o.name || '@' || t.name as osf, d.version, d.path, d.blocked, r.state, r.percentage,
        (select array_agg(g.tag order by g.tag) from di_tags g where g.di_id = d.id) as tags,
        r.status_message as message, r.size, r.sha256
    from dis d join di_runtimes r on r.di_id = d.id join osfs o on o.id = d.osf_id join tenants t on t.id = o.tenant_id
    order by t.name, o.name, d.id;

-- A storage without a file is shown when its staging directory cannot be read.
create view staging_list as
    select s.name as file, s.size, s.kind, s.modified, r.reported_at as seen, r.problem, r.place,
        (select array_agg(h.name order by h.name) from hosts h where coalesce(h.storage_id::text, 'host ' || h.id) = r.place)
            as hosts
    from storage_reports r left join staging s on s.place = r.place
    where s.name is not null or r.problem is not null
    order by s.name, r.place;

create view tunnel_list as
    select h.name as host, c.tunnel, c.tunnels, c.bytes_up, c.bytes_down
    from tunnel_counters c join hosts h on h.id = c.host_id
    order by h.name, c.tunnel;

create view end_list as
    select h.name as host, c.reason, c.sessions
    from end_counters c join hosts h on h.id = c.host_id
    order by h.name, c.sessions desc, c.reason;
