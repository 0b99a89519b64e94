-- Why a VM is in the state it is in: what it does or waits for, since when, what was tried, what comes next and when.

-- What a node says of VMs that take long; of all others it says nothing. Ages and what is left are in seconds, by its own
-- clock.
create or replace function node_progress(
    node integer, node_epoch bigint,
    vms integer[], phases text[], ages float8[], lefts float8[], tries integer[], notes text[]
) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    perform node_check(node, node_epoch);
    delete from vm_progress p where p.host_id = node and p.vm_id <> all (vms);
    insert into vm_progress as p (vm_id, host_id, phase, since, until, attempts, note)
    select s.vm, node, s.phase, now() - s.age * interval '1 second', now() + s.left_over * interval '1 second', s.tried, s.note
    from unnest(vms, phases, ages, lefts, tries, notes) s (vm, phase, age, left_over, tried, note)
    where exists (select from vms v where v.id = s.vm)
    on conflict (vm_id) do update set host_id = excluded.host_id, phase = excluded.phase, since = excluded.since,
        until = excluded.until, attempts = excluded.attempts, note = excluded.note;
end $$;

-- A duration as people say it.
create or replace function span(wanted interval) returns text
language sql immutable parallel safe as $$
    select case
        when s < 120 then s || ' s'
        when s < 7200 then s / 60 || ' min'
        when s < 172800 then s / 3600 || ' h'
        else s / 86400 || ' days'
    end
    from (select greatest(round(extract(epoch from wanted)), 0)::bigint) x (s)
$$;

-- A moment with its distance from now.
create or replace function moment(at timestamptz) returns text
language sql stable parallel safe as $$
    select to_char(at, 'HH24:MI:SS') || case
        when at > now() then ' (in ' || span(at - now()) || ')' else ' (' || span(now() - at) || ' ago)' end
$$;

-- What keeps a node from taking a VM; null: nothing.
create or replace function host_obstacle(node integer) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    return (
        select case
            when not h.backend then 'is no back end'
            when r.state <> 'running' then 'is ' || r.state
            when r.cmd is not null then 'was told to ' || r.cmd
            when r.blocked then 'is blocked'
            when r.ok_ts is null then 'never gave a sign of life'
            when r.ok_ts < now() - config_get('internal.hkd.lease.lapse')::float8 * interval '1 second'
                then 'gave its last sign of life ' || span(now() - r.ok_ts) || ' ago'
            when r.storage_degraded_since is not null then 'has trouble with its storage: ' || r.storage_degraded_reason
        end
        from hosts h join host_runtimes r on r.host_id = h.id where h.id = node);
end $$;

-- Everything that `vm_why` speaks of.
create or replace function vm_why_facts(vm integer) returns jsonb
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    return (
        select jsonb_build_object(
            'vm', vm_name(vm), 'state', r.vm_state, 'since', r.vm_state_ts, 'reason', r.vm_reason, 'blocked', r.blocked,
            'command', r.vm_cmd, 'command_since', case when r.vm_cmd is not null then r.vm_cmd_ts end,
            'restart_due', r.restart_due,
            'host', h.name, 'host_state', hr.state, 'host_obstacle', host_obstacle(h.id),
            'host_last_sign', hr.ok_ts, 'host_events', hr.events_degraded_reason,
            'phase', p.phase, 'phase_since', p.since, 'phase_until', p.until, 'attempts', p.attempts, 'note', p.note,
            'image', s.di_path, 'tag', s.di_tag, 'image_in_use', d.path,
            'expiration_soft', r.vm_expiration_soft, 'expiration_hard', r.vm_expiration_hard,
            'expiration_told', r.vm_expiration_told,
            'user_state', r.user_state, 'user_since', r.user_state_ts, 'user_command', r.user_cmd, 'session', r.session_id,
            'client', host(u.client_address), 'router', l.name,
            'hosts', case when r.vm_state = 'stopped' and r.vm_cmd is null then (
                select jsonb_object_agg(case when sees_all() then n.name else 'host ' || n.id end, host_obstacle(n.id) order by n.name) from hosts n) end)
        from vm_runtimes r
            join vm_specs s on s.vm_id = r.vm_id
            left join hosts h on h.id = r.host_id
            left join host_runtimes hr on hr.host_id = r.host_id
            left join vm_progress p on p.vm_id = r.vm_id and p.host_id = r.host_id
            left join dis d on d.id = r.current_di_id
            left join user_sessions u on u.id = r.session_id
            left join hosts l on l.id = r.l7r_host_id
        where r.vm_id = vm and reaches(r.tenant_id));
end $$;

-- What a VM on its node does, from what the node says of it.
create or replace function vm_why_phase(f jsonb) returns text
language plpgsql stable set search_path = qvd, pg_temp as $$
declare
    began text := moment((f->>'phase_since')::timestamptz);
    over text := moment((f->>'phase_until')::timestamptz);
    image text := coalesce(f->>'image_in_use', f->>'image');
    tried text := case when (f->>'attempts')::integer > 0
        then (f->>'attempts') || case when f->>'attempts' = '1' then ' ping was' else ' pings were' end || ' not answered'
            || coalesce(', the last because: ' || (f->>'note'), '') || '.'
        else 'It was just asked for the first time.' end;
begin
    return case f->>'phase'
        when 'Waiting' then format('Since %s it has been waiting for one of its node''s slots, since no more VMs start or stop at the '
            'same time than internal.hkd.max_heavy allows. If none becomes free, the start is given up at %s.', began, over)
        when 'Preparing' then format('Since %s its image %s has been made ready, which means unpacking it if no other VM has '
            'used it here. If that is not done by %s, the start is given up.', began, image, over)
        when 'Launching' then format('Since %s its storage, its network and its first process have been set up. If that is not done '
            'by %s, it is killed and cleaned up.', began, over)
        when 'Booting' then format('It has been booting since %s; its agent has not answered yet. %s If it does not answer by %s, the '
            'VM is killed.', began, tried, over)
        when 'Running' then format('Its agent does not answer. %s It counts as dead after as many pings and as long a silence as '
            'internal.hkd.vmhandler.vma.failed.*.on.running say.', tried)
        when 'Debugging' then 'Its agent died and it is kept for inspection (internal.vm.debug.enable). It runs again when the agent '
            'answers, and stops when it is told to.'
        when 'WaitingToStop' then format('Since %s it has been waiting for one of its node''s slots (internal.hkd.max_heavy). At %s it '
            'shuts down without one.', began, over)
        when 'ShuttingDown' then format('It was asked to power off at %s. If it has not ended by %s, it is killed.', began, over)
        when 'Killing' then format('Its processes were killed at %s. If they are not dead by %s, it is a zombie.', began, over)
        when 'Cleaning' then format('What it left has been freed since %s. If that is not done by %s, it is a zombie.', began, over)
        when 'Zombie' then format('It has been tried %s to clean it up, the last time in vain because: %s. The next attempt is at %s.',
            case f->>'attempts' when '1' then 'once' else (f->>'attempts') || ' times' end, coalesce(f->>'note', 'nobody knows'), over)
    end;
end $$;

-- The same in one paragraph.
create or replace function vm_why(vm integer) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    f jsonb := vm_why_facts(vm);
    said text[];
    phase text;
    state text := f->>'state';
begin
    if f is null then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    said := array[format('VM %s has been %s%s since %s.', f->>'vm', state, coalesce(' on ' || (f->>'host'), ''),
        moment((f->>'since')::timestamptz))];
    if f->>'command' is not null then
        said := said || format('It was told to %s at %s and its node %s has not taken the command yet; it does so when it is '
            'notified or polls.', f->>'command', moment((f->>'command_since')::timestamptz), f->>'host');
    elsif (f->>'restart_due')::boolean then
        said := said || 'Its node was lost, and it starts again as soon as a host can take it.'::text;
    end if;
    phase := vm_why_phase(f);
    if phase is not null then
        said := said || phase;
    elsif state in ('starting', 'stopping') and f->>'command' is null then
        said := said || 'Its node has been at it for a moment only, or has not said more.'::text;
    elsif state = 'running' and f->>'command' is null then
        said := said || 'Its agent answers, and nothing is waited for.'::text;
    end if;
    if f->>'reason' is not null then
        said := said || format(case when state = 'stopped' then 'The last thing said of it: %s.' else 'Why: %s.' end, f->>'reason');
    end if;
    if f->>'host_obstacle' is not null then
        said := said || format('Its node %s %s.', f->>'host', f->>'host_obstacle');
    end if;
    if f->>'host_events' is not null then
        said := said || format('Notifications do not reach %s as they should (%s); it polls.', f->>'host', f->>'host_events');
    end if;
    if state = 'stopped' and f->>'image' is null then
        said := said || format('It cannot start: its OSF has no disk image tagged %s that is published and not blocked.', f->>'tag');
    end if;
    if state = 'stopped' and f->>'command' is null then
        if not exists (select from jsonb_each(coalesce(nullif(f->'hosts', 'null'), '{}')) n where n.value = 'null') then
            said := said || ('No host could take it: ' || coalesce(
                (select string_agg(n.key || ' ' || (n.value #>> '{}'), '; ' order by n.key)
                 from jsonb_each(nullif(f->'hosts', 'null')) n), 'there is none') || '.');
        elsif f->>'image' is not null and not (f->>'restart_due')::boolean then
            said := said || 'It starts when somebody connects or tells it to.'::text;
        end if;
    end if;
    if (f->>'blocked')::boolean then
        said := said || 'It is blocked, so nobody can connect to it.'::text;
    end if;
    if coalesce(f->>'expiration_soft', f->>'expiration_hard') is not null then
        said := said || ('Its run expires: ' || concat_ws('; ',
            'its user is asked to log out from ' || moment((f->>'expiration_soft')::timestamptz) || ' on',
            'it is stopped at ' || moment((f->>'expiration_hard')::timestamptz),
            'its agent was told at ' || moment((f->>'expiration_told')::timestamptz)) || '.');
    end if;
    if f->>'user_state' <> 'disconnected' then
        said := said || format('Session %s from %s through %s has been %s since %s%s.', f->>'session', f->>'client', f->>'router',
            f->>'user_state', moment((f->>'user_since')::timestamptz),
            case when f->>'user_command' is not null then ' and was told to end' else '' end);
    end if;
    return array_to_string(said, ' ');
end $$;

create or replace function vm_why(vm text) returns text language sql stable as $$ select vm_why(vm_id(vm)) $$;
