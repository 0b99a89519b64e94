-- What nodes do with disk images: list staging directories, make images of files, remove files of deleted ones. One of the
-- nodes that share a storage does each piece of work; what a dead one had begun is another's.

-- How often an image is begun anew when the nodes that copy it keep dying.
create or replace function di_import_attempts() returns integer language sql immutable as $$ select 5 $$;

-- Whether a node may take an image to be made: nobody has it, or one whose time is over, or this node itself, of which it
-- was asked by a daemon that makes none.
create or replace function di_import_free(wanted di_imports, node integer) returns boolean
language sql stable security definer set search_path = qvd, pg_temp as $$
    select wanted.host_id is null or wanted.host_id = node or not exists (
        select from host_runtimes r where r.host_id = wanted.host_id and r.epoch = wanted.epoch and r.state not in ('stopped', 'lost'))
$$;

-- The work of a node: whether it shall list the staging directory, which nobody did for `patience` seconds; files to be
-- removed; and, if it is `idle`, an image to be made.
create or replace function node_images(
    node integer, node_epoch bigint, patience float8, idle boolean,
    out list boolean, out leftovers text[], out di integer, out source text, out path text, out move boolean
)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    here text := storage_place(node);
    candidate integer;
    claimed di_imports;
begin
    perform node_check(node, node_epoch);
    list := false;
    if not exists (select from storage_reports r where r.place = here
            and r.reported_at >= now() - patience * interval '1 second') then
        insert into storage_reports as r (place, reported_at) values (here, now())
        on conflict (place) do update set reported_at = now()
            where r.reported_at < now() - patience * interval '1 second';
        list := found;
    end if;
    leftovers := array(select l.path from di_leftovers l where l.place = here order by l.path limit 100);
    if not idle then
        return;
    end if;
    for candidate in
        select i.di_id from di_imports i where i.place = here and di_import_free(i, node) order by i.di_id
    loop
        -- Like administration: first the OSF, then what belongs to it.
        perform from dis d join osfs o on o.id = d.osf_id where d.id = candidate for update of o;
        select i.* into claimed from di_imports i where i.di_id = candidate and di_import_free(i, node) for update;
        continue when not found;
        if claimed.attempts >= di_import_attempts() then
            perform di_import_over(candidate, format('the nodes that made it ended %s times, the last was %s',
                claimed.attempts, (select h.name from hosts h where h.id = claimed.host_id)));
            continue;
        end if;
        update di_imports i set host_id = node, epoch = node_epoch, attempts = i.attempts + 1 where i.di_id = candidate;
        update di_runtimes r set state = 'uploading', state_ts = now(), percentage = 0, status_message = null
        where r.di_id = candidate;
        select d.id, d.path, claimed.source, claimed.move into di, path, source, move from dis d where d.id = candidate;
        return;
    end loop;
end $$;

create or replace function di_import_over(wanted integer, message text) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    delete from di_imports where di_id = wanted;
    update di_runtimes set state = 'fail', state_ts = now(), status_message = message where di_id = wanted;
    perform audit('fail', 'di', d.id, d.path, o.tenant_id, jsonb_build_object('why', message))
    from dis d join osfs o on o.id = d.osf_id where d.id = wanted;
end $$;

-- Whether an image is this node's to make; nobody takes it away before the transaction ends.
create or replace function di_import_held(node integer, node_epoch bigint, wanted integer) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform node_check(node, node_epoch);
    perform from dis d join osfs o on o.id = d.osf_id where d.id = wanted for update of o;
    perform from di_imports where di_id = wanted and host_id = node and epoch = node_epoch for update;
    return found;
end $$;

-- How far an image is, in percent. False: it was deleted, or is another's.
create or replace function node_di_progress(node integer, node_epoch bigint, wanted integer, phase di_state, share real)
returns boolean
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    if not di_import_held(node, node_epoch, wanted) then
        return false;
    end if;
    update di_runtimes set state = phase, percentage = floor(share),
        state_ts = case when state = phase then state_ts else now() end
    where di_id = wanted and (state, percentage) is distinct from (phase, floor(share)::real);
    return true;
end $$;

-- An image lies in its place, whole and checked. False: it was deleted. Null: it is another's.
create or replace function node_di_ready(
    node integer, node_epoch bigint, wanted integer, hash text, bytes bigint, warnings text
) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if not di_import_held(node, node_epoch, wanted) then
        return case when not exists (select from dis where id = wanted) then false end;
    end if;
    update di_runtimes set state = 'ready', state_ts = now(), percentage = 100, sha256 = hash, size = bytes,
        status_message = warnings
    where di_id = wanted;
    delete from di_imports where di_id = wanted;
    if (select auto_publish from di_runtimes where di_id = wanted) then
        perform di_publish(wanted::text);
    end if;
    return true;
end $$;

-- No image can be made of it. False: it was deleted, or is another's.
create or replace function node_di_failed(node integer, node_epoch bigint, wanted integer, message text) returns boolean
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if not di_import_held(node, node_epoch, wanted) then
        return false;
    end if;
    perform di_import_over(wanted, message);
    return true;
end $$;

-- What lies in the staging directory, or why that cannot be said.
create or replace function node_staging(
    node integer, node_epoch bigint, names text[], sizes bigint[], modified float8[], kinds text[], problem text
) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    here text := storage_place(node);
begin
    perform node_check(node, node_epoch);
    -- Two that list at once would meet the same names.
    perform from storage_reports r where r.place = here for update;
    delete from staging s where s.place = here and s.name <> all (names);
    insert into staging as s (place, name, size, modified, kind)
    select here, f.name, f.size, to_timestamp(f.modified), f.kind
    from unnest(names, sizes, modified, kinds) f (name, size, modified, kind)
    on conflict (place, name) do update set size = excluded.size, modified = excluded.modified, kind = excluded.kind
        where (s.size, s.modified, s.kind) is distinct from (excluded.size, excluded.modified, excluded.kind);
    update storage_reports r set reported_at = now(), problem = node_staging.problem where r.place = here;
end $$;

-- The file of a deleted image is no more on the storage of this node.
create or replace function node_di_removed(node integer, node_epoch bigint, gone text) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform node_check(node, node_epoch);
    delete from di_leftovers l where l.place = storage_place(node) and l.path = gone;
end $$;

-- The paths of all images. What was unpacked from another has no more use: a VM that is up keeps its image from deletion.
create or replace function node_di_paths(node integer, node_epoch bigint) returns text[]
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    perform node_check(node, node_epoch);
    return array(select path from dis);
end $$;
