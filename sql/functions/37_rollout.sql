-- What comes before and after the making of images: files that are brought to staging, attempts that failed, and users who
-- still have the image that was before.

-- The log of what the web tool does in a staging directory, which no table shows. Refused to those who may make no images,
-- so it is asked first.
create or replace function staging_log(action text, file text, arguments jsonb default null) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform demand('di.create.');
    perform audit(action, 'staging', null, file, my_tenant(), arguments);
end $$;

-- Makes an image that failed once more, of the file that has its name.
create or replace function di_retry(wanted text) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target record;
    file text;
begin
    perform demand('di.create.');
    select * into target from di_for_change(wanted);
    file := regexp_replace((target.di).path, '^[0-9]+-', '');
    if (target.runtime).state <> 'fail' then
        raise exception 'disk image % is %, and only one that failed is made again', wanted, (target.runtime).state
            using errcode = 'QV021', hint = 'select state, percentage, message from di_list;';
    end if;
    update di_runtimes set state = 'new', state_ts = now(), percentage = 0, status_message = null where di_id = (target.di).id;
    insert into di_imports (di_id, place, source, move) values ((target.di).id, staging_place(file), file, false);
    perform audit('retry', 'di', (target.di).id, (target.di).path, target.tenant);
    perform storage_wake(staging_place(file));
    return (target.di).id;
end $$;

-- The VMs that are up with another image than they would start from next, if that is this one or would be once it is published.
create or replace function di_affected(wanted text) returns table (
    vm_id integer, name text, state vm_state, user_state user_state, host text, version text,
    expiration_soft timestamptz, expiration_hard timestamptz
)
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    target integer := di_id(wanted);
begin
    perform demand_any(array['di.update.publish.', 'di.see.vm-list.']);
    return query
    select v.id, vm_name(v.id),
        case when (select can('di.see.vm-list-state.')) then r.vm_state end,
        case when (select can('di.see.vm-list-user-state.')) then r.user_state end,
        case when (select can('vm.see.host.')) then (select h.name::text from hosts h where h.id = r.host_id) end,
        case when (select can('vm.see.di-version.')) then (select c.version from dis c where c.id = r.current_di_id) end,
        case when (select can('di.see.vm-list-expiration.')) then r.vm_expiration_soft end,
        case when (select can('di.see.vm-list-expiration.')) then r.vm_expiration_hard end
    from dis d
        join di_runtimes i on i.di_id = d.id
        join vms v on v.osf_id = d.osf_id
        join vm_runtimes r on r.vm_id = v.id
        join vm_specs s on s.vm_id = v.id
    where d.id = target and not d.blocked and r.current_di_id <> d.id and r.vm_state in ('starting', 'running', 'debugging')
        and exists (select from di_tags t where t.di_id = d.id and t.tag = v.di_tag)
        and (i.state <> 'published' or s.di_id = d.id)
    order by 2;
end $$;

-- Publishes an image, or goes on to roll out one that is, and has the VMs that are up with another expire: their users are told
-- to log out at `soft`, and they are stopped at `hard`. What was said when the image was made counts no more.
create or replace function di_rollout(wanted text, soft timestamptz default null, hard timestamptz default null) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target integer := di_id(wanted);
begin
    perform demand('di.update.publish.');
    if soft is not null or hard is not null then
        perform demand('vm.update.expiration.');
    end if;
    if hard < soft then
        raise exception 'VMs would be stopped before their users are told'
            using errcode = 'QV014', hint = 'The hard expiration comes after the soft one.';
    end if;
    perform di_for_change(wanted);
    update di_runtimes r set expiration_time_soft = null, expiration_time_hard = null
    where r.di_id = target and r.state = 'ready' and coalesce(r.expiration_time_soft, r.expiration_time_hard) is not null;
    perform di_publish(target::text);
    -- Like every publication: it shortens lives and never prolongs them.
    update vm_runtimes r
    set vm_expiration_soft = least(r.vm_expiration_soft, soft), vm_expiration_hard = least(r.vm_expiration_hard, hard)
    where coalesce(soft, hard) is not null and r.vm_id in (select a.vm_id from di_affected(target::text) a);
    return target;
end $$;
