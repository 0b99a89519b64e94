-- What l7r may do. Writes name the session they are about; when that session is no longer the VM's, nothing is done.
-- A commit that notifies keeps all others that do waiting until it is on disk, so what is written at the beginning and the
-- end of a session does not wait for the disk at all. Routers do so afterwards, many sessions at once (`settle`).

-- A new L7R process of a node announces itself and learns who else is on record there.
create or replace function l7r_start(
    node_name text, node_boot uuid, node_pid integer, node_pid_start bigint,
    out node integer, out address inet, out instance bigint
)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    select h.id, h.address into node, address from hosts h where h.name = node_name;
    if node is null then
        raise exception 'no host is named %', node_name using errcode = 'QV010', hint = 'select name from hosts;';
    end if;
    insert into l7r_instances (host_id, boot_id, pid, pid_start)
    values (node, node_boot, node_pid, node_pid_start) returning id into instance;
end $$;

create or replace function l7r_instances_of(node integer)
returns table (instance bigint, boot_id uuid, pid integer, pid_start bigint)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query select id, boot_id, pid, pid_start from l7r_instances where host_id = node and ended_at is null;
end $$;

-- Ends what instances left that are proven gone. Returns how many sessions that were.
create or replace function l7r_gone(instances bigint[], reason text) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    ended integer;
begin
    update vm_runtimes set user_state = 'disconnected' where l7r_instance = any (instances);
    with closed as (
        update user_sessions set ended_at = now(), end_reason = reason
        where l7r_instance = any (instances) and ended_at is null returning l7r_host_id),
    counted as (
        insert into end_counters as c (host_id, reason, sessions)
        select l7r_host_id, l7r_gone.reason, count(*) from closed group by l7r_host_id
        on conflict on constraint end_counters_pkey do update set sessions = c.sessions + excluded.sessions)
    select count(*) into ended from closed;
    update l7r_instances set ended_at = now() where id = any (instances) and ended_at is null;
    return ended;
end $$;

create or replace function l7r_host(node integer, out state host_state, out blocked boolean)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    select state, blocked
    into state, blocked
    from host_runtimes where host_id = node;
end $$;

-- The account that a login of a tenant means, with what its password is checked against.
create or replace function l7r_user(
    wanted_login text, wanted_tenant text,
    out user_id integer, out tenant_id integer, out login text, out password text, out blocked boolean
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    select u.id, t.id, u.login, u.password, u.blocked or t.blocked
    into user_id, tenant_id, login, password, blocked
    from users u join tenants t on t.id = u.tenant_id
    where u.login = wanted_login and t.name = wanted_tenant and t.id > 0;
end $$;

-- Replaces a password hash by a stronger one of the same password, unless it was changed meanwhile.
create or replace function l7r_password_upgrade(account integer, was text, becomes text) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    update users set password = becomes where id = account and password = was;
    return found;
end $$;

-- The desktops or applications of an account, and whether the node serves users at all. A single row without a VM when
-- there are none; no row: there is no such node.
create or replace function l7r_list(node integer, account integer, applications boolean)
returns table (
    host_state host_state, host_blocked boolean,
    id integer, name text, state vm_state, blocked boolean, is_application boolean
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query select h.state, h.blocked, l.*
    from host_runtimes h left join (
        select v.id, v.name::text, r.vm_state, r.blocked, o.is_application
        from vms v join vm_runtimes r on r.vm_id = v.id join osfs o on o.id = v.osf_id
        where v.user_id = account and o.is_application = applications
    ) l on true
    where h.host_id = node
    order by l.name;
end $$;

-- What the checks before a connection need: whether the node serves users at all, and a VM. Without a state of the node
-- there is no such node, without an owner no such VM.
drop function if exists l7r_vm(integer);
create or replace function l7r_vm(
    node integer, wanted integer,
    out host_state host_state, out host_blocked boolean, out owner integer, out blocked boolean, out state vm_state
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    select h.state, h.blocked, v.user_id, r.blocked, r.vm_state
    into host_state, host_blocked, owner, blocked, state
    from host_runtimes h left join (vms v join vm_runtimes r on r.vm_id = v.id) on v.id = wanted
    where h.host_id = node;
end $$;

-- Takes a VM for a session that is about to begin, and says how the VM stands, as `l7r_session` does. When another
-- session has it, that one is told to go and no state is returned: ask again when the VM has changed. A session of an
-- instance that has ended, that was told to end it and does not answer, or of a node whose lease has lapsed, is
-- replaced: the desktop takes one connection and leaves the other.
-- With `unchecked`, a VM that is not `fit` is left alone: when its node does not serve users, when it is not the
-- account's own, or when it is blocked. What the client is to be told, `l7r_vm` knows.
-- The router names the session. A number that the server gave could be given again when this commit is lost in a crash,
-- and two sessions would be taken for one.
create or replace function l7r_acquire(
    session bigint, by_instance bigint, wanted integer, account integer, client inet, token text, learnt jsonb,
    unchecked boolean default false,
    out host_address text, out properties jsonb, out state vm_state, out commanded boolean, out placed boolean,
    out address inet, out vma_port integer, out x_port integer, out secret bytea, out reason text, out fit boolean
)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    on_host integer;
    serves boolean;
    owner integer;
    vm_name text;
    target vm_runtimes;
begin
    perform set_config('synchronous_commit', 'off', true);
    select h.id, host(h.address), r.state = 'running' and not r.blocked into on_host, host_address, serves
    from l7r_instances i join hosts h on h.id = i.host_id join host_runtimes r on r.host_id = h.id
    where i.id = by_instance and i.ended_at is null;
    if not found then
        raise exception 'L7R instance % has ended', by_instance using errcode = 'QV001';
    end if;
    select v.user_id, v.name into owner, vm_name from vms v where v.id = wanted;
    fit := not unchecked or serves and owner is not distinct from account;
    if not fit then
        return;
    end if;
    select * into target from vm_runtimes where vm_id = wanted for update;
    fit := not (unchecked and target.blocked);
    if not fit then
        return;
    end if;
    if target.user_state <> 'disconnected' then
        if exists (
            select from l7r_instances i join host_runtimes h on h.host_id = i.host_id
            where i.id = target.l7r_instance and i.ended_at is null
                and (h.host_id = on_host or h.ok_ts
                    > now() - config_get('internal.hkd.lease.lapse')::float8 * interval '1 second')
        ) and coalesce(target.user_cmd_ts
            > now() - config_get('internal.l7r.timeout.abort')::float8 * interval '1 second', true) then
            update vm_runtimes set user_cmd = 'abort', contender = client where vm_id = wanted and user_cmd is null;
            return;
        end if;
        update user_sessions set ended_at = now(), end_reason = 'its router is gone'
        where id = target.session_id and ended_at is null;
        update vm_runtimes set user_state = 'disconnected' where vm_id = wanted;
    end if;
    insert into user_sessions (
        id, vm_id, vm_name, user_id, login, tenant_id, host_id, l7r_host_id, l7r_instance, client_address)
    select session, wanted, vm_name, account, u.login, u.tenant_id, target.host_id, on_host, by_instance, client
    from users u where u.id = account;
    update vm_runtimes
    set user_state = 'connecting', session_id = session, l7r_host_id = on_host, l7r_instance = by_instance,
        real_user_id = account
    where vm_id = wanted;
    perform l7r_token_create(account, token, learnt, wanted);
    properties := vm_effective_properties(wanted);
    select s.secret into secret from vm_specs s where s.vm_id = wanted;
    state := target.vm_state;
    commanded := target.vm_cmd is not null;
    placed := target.host_id is not null;
    address := target.vm_address;
    vma_port := target.vm_vma_port;
    x_port := target.vm_x_port;
    reason := target.vm_reason;
end $$;

-- Properties of OSF, image, owner and VM, the later overriding the earlier.
create or replace function vm_effective_properties(vm integer) returns jsonb
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (
        select coalesce(jsonb_object_agg(key, value order by rank), '{}')
    from (
        select l.key, p.value, p.rank
        from (
            select op.property_id, op.value, 1 from vms v join osf_properties op on op.osf_id = v.osf_id where v.id = vm
            union all
            select dp.property_id, dp.value, 2 from di_properties dp
            where dp.di_id = coalesce((select current_di_id from vm_runtimes where vm_id = vm), di_for(vm))
            union all
            select up.property_id, up.value, 3 from vms v join user_properties up on up.user_id = v.user_id where v.id = vm
            union all
            select vp.property_id, vp.value, 4 from vm_properties vp where vp.vm_id = vm
        ) p (property_id, value, rank)
            join qvd_object_properties_list o on o.id = p.property_id
            join properties_list l on l.id = o.property_id
        -- What makes a user's one-time passwords is nobody's business in the VM.
        where not is_secret(l.key)
        order by rank
    ) ranked);
end $$;

-- How the VM of a session stands. No row: the session has ended.
create or replace function l7r_session(
    wanted bigint,
    out state vm_state, out commanded boolean, out aborted boolean, out contender inet, out placed boolean,
    out address inet, out vma_port integer, out x_port integer, out secret bytea, out reason text
)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    select r.vm_state, r.vm_cmd is not null, r.user_cmd is not null, r.contender, r.host_id is not null,
        r.vm_address, r.vm_vma_port, r.vm_x_port, s.secret, r.vm_reason
    into state, commanded, aborted, contender, placed, address, vma_port, x_port, secret, reason
    from user_sessions u join vm_runtimes r on r.vm_id = u.vm_id and r.session_id = u.id
        left join vm_specs s on s.vm_id = r.vm_id
    where u.id = wanted;
end $$;

-- The VM that a session was for, so that its row is found by key however many there are. Whether the session still has it
-- is another question.
create or replace function session_vm(wanted bigint) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (select vm_id from user_sessions where id = wanted);
end $$;

-- Asks for the VM of a session to be started, as an administrator would. A refusal is kept with the VM, where
-- administrators look, and its SQLSTATE is returned: its text is not for users.
drop function if exists l7r_vm_start(bigint);
create function l7r_vm_start(wanted bigint) returns text
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform vm_start_found(s) from vm_runtimes r join vm_specs s on s.vm_id = r.vm_id
    where r.vm_id = session_vm(wanted) and r.session_id = wanted;
    return null;
exception when sqlstate 'QV030' or sqlstate 'QV031' then
    update vm_runtimes set vm_reason = sqlerrm where vm_id = session_vm(wanted) and session_id = wanted;
    return sqlstate;
end $$;

-- A VM is told to stop, because a user asked who may. Whether, the router knows, as for a connection.
drop function if exists l7r_vm_stop(integer, integer);
create or replace function l7r_vm_stop(vm integer) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform vm_stop(v.id) from vms v where v.id = vm;
end $$;

-- The last check before bytes flow: false when the session was aborted or has ended. A client that asked for a token to come
-- back with may use it from here on (`resumed_session`); what authentication learnt goes with it.
create or replace function l7r_connected(
    wanted bigint, way text, resume text default null, learnt jsonb default null
) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    on_host integer;
begin
    perform set_config('synchronous_commit', 'off', true);
    update vm_runtimes set user_state = 'connected'
    where vm_id = session_vm(wanted) and session_id = wanted
        and user_state = 'connecting' and user_cmd is null and vm_state = 'running'
    returning host_id into on_host;
    if not found then
        return false;
    end if;
    update user_sessions set connected_at = now(), tunnel = way, host_id = on_host where id = wanted;
    if resume is not null then
        insert into session_resumes (session_id, token, parameters) values (wanted, token_digest(resume), learnt);
    end if;
    return true;
end $$;

-- A tunnel goes another way than it was to go when its session was connected.
create or replace function l7r_way(wanted bigint, way text) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    update user_sessions set tunnel = way where id = wanted;
end $$;

-- The sessions of an instance that must end: for a client at this address, or because their VM has stopped, or else
-- because an administrator said so.
create or replace function l7r_aborted(by_instance bigint)
returns table (session bigint, contender inet, stopped boolean)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query select r.session_id, r.contender, r.vm_state = 'stopped' from vm_runtimes r
    where r.user_cmd is not null and r.l7r_instance = by_instance
        and r.l7r_host_id = (select host_id from l7r_instances where id = by_instance);
end $$;

-- The sessions that an instance has on record. One that it does not know was lost on its way there, or has ended in commits
-- that a server lost. With such commits the instance may have been forgotten itself; its process makes another one of itself.
create or replace function l7r_sessions(by_instance bigint) returns setof bigint
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    if not exists (select from l7r_instances where id = by_instance and ended_at is null) then
        raise exception 'L7R instance % has ended', by_instance using errcode = 'QV001';
    end if;
    return query select session_id from vm_runtimes where l7r_instance = by_instance;
end $$;

-- A session is over. Whoever has the VM by now keeps it. Only a client that is to come back may do so with its token.
create or replace function l7r_end(
    wanted bigint, reason text, up bigint, down bigint, resumable boolean default false
) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update vm_runtimes set user_state = 'disconnected' where vm_id = session_vm(wanted) and session_id = wanted;
    if not resumable then
        delete from session_resumes where session_id = wanted;
    end if;
    update user_sessions set ended_at = now(), end_reason = reason, bytes_up = up, bytes_down = down
    where id = wanted and ended_at is null;
end $$;

-- Why a session of an account ended; null while it lasts or when it is another's.
create or replace function l7r_session_end(wanted bigint, account integer) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    return (
        select end_reason from user_sessions where id = wanted and user_id = account);
end $$;

-- Bytes of sessions that go on, added up in memory and written now and then.
create or replace function l7r_traffic(sessions bigint[], ups bigint[], downs bigint[]) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update user_sessions s set bytes_up = t.up, bytes_down = t.down
    from unnest(sessions, ups, downs) t (id, up, down) where s.id = t.id and s.ended_at is null;
end $$;

-- Adds to the counters of a node.
create or replace function l7r_count(
    node integer, requests bigint, attempts bigint, ok bigint, nx_tries bigint, nx_done bigint, shorts bigint
) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update host_counters set http_requests = http_requests + requests, auth_attempts = auth_attempts + attempts,
        auth_ok = auth_ok + ok, nx_attempts = nx_attempts + nx_tries, nx_ok = nx_ok + nx_done,
        short_sessions = short_sessions + shorts
    where host_id = node;
end $$;

-- Adds to what the tunnels of a node carried, how many there were, and why sessions ended.
create or replace function l7r_count_sessions(
    node integer, ways text[], opened bigint[], ups bigint[], downs bigint[], reasons text[], ended bigint[]
) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    insert into tunnel_counters as c (host_id, tunnel, tunnels, bytes_up, bytes_down)
    select node, t.* from unnest(ways, opened, ups, downs) t
    on conflict (host_id, tunnel) do update set tunnels = c.tunnels + excluded.tunnels,
        bytes_up = c.bytes_up + excluded.bytes_up, bytes_down = c.bytes_down + excluded.bytes_down;
    insert into end_counters as c (host_id, reason, sessions) select node, t.* from unnest(reasons, ended) t
    on conflict (host_id, reason) do update set sessions = c.sessions + excluded.sessions;
end $$;

create or replace function l7r_count_refused(
    node integer, crowd bigint, handshakes bigint, plain bigint, slow bigint, limited bigint
) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update host_counters set refused_connections = refused_connections + crowd,
        failed_handshakes = failed_handshakes + handshakes, plain_http = plain_http + plain,
        slow_clients = slow_clients + slow, limited_logins = limited_logins + limited
    where host_id = node;
end $$;

-- What an instance cannot use of what is stored for it; null: it can use everything.
create or replace function l7r_problem(which bigint, text text) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    node integer;
begin
    update l7r_instances l set problem = l7r_problem.text
    where l.id = which and l.problem is distinct from l7r_problem.text returning l.host_id into node;
    if node is null then
        return;
    end if;
    if l7r_problem.text is not null then
        perform audit('refuse', 'host', node, (select h.name from hosts h where h.id = node), -1,
            jsonb_build_object('problem', l7r_problem.text));
    end if;
    perform wake('qvd_admin', 'host', node);
end $$;

-- Certificates and key for every L7R.
create or replace function l7r_ssl() returns table (key text, value text)
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query select key, value from ssl_configs;
end $$;
