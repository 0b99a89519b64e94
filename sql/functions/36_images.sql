-- Administration of disk images: from a file in staging to a version that VMs start from, and out again.

-- The storage that a node uses.
create or replace function storage_place(node integer) returns text
language sql stable security definer set search_path = qvd, pg_temp as $$
    select coalesce(storage_id::text, 'host ' || id) from hosts where id = node
$$;

-- Tells the nodes of a storage (null: all) that there is something to do with images.
create or replace function storage_wake(wanted text) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform wake('qvd_node_' || h.id, 'image', null)
    from hosts h join host_runtimes r on r.host_id = h.id
    where r.state = 'running' and (wanted is null or storage_place(h.id) = wanted);
end $$;

-- Has the staging directories listed anew.
create or replace function staging_refresh() returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform demand('di.create.');
    update storage_reports set reported_at = '-infinity';
    perform storage_wake(null);
end $$;

-- An image by its id, or as `osf[@tenant]/version` or `osf[@tenant]/tag`.
create or replace function di_id(wanted text) returns integer
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    parts text[] := regexp_match(wanted, '^(.+)/([^/]+)$');
    found_id integer;
begin
    if wanted ~ '^[0-9]{1,9}$' then
        select d.id into found_id from dis d join osfs o on o.id = d.osf_id where d.id = wanted::integer and reaches(o.tenant_id);
    elsif parts is not null then
        select d.id into found_id
        from dis d join di_tags t on t.di_id = d.id join di_runtimes r on r.di_id = d.id
        where d.osf_id = osf_id(parts[1]) and t.tag = parts[2]
        order by t.fixed desc, r.state = 'published' desc, d.id desc limit 1;
    end if;
    if found_id is null then
        raise exception 'there is no disk image %', wanted
            using errcode = 'QV010', hint = 'Give its id, or osf/version or osf/tag: select id, osf, version, tags from di_list;';
    end if;
    return found_id;
end $$;

-- The first version of today that is free.
create or replace function di_version_free(osf integer) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    today text := to_char(now() at time zone 'utc', 'YYYY-MM-DD-');
    free text;
begin
    select today || to_char(n, 'FM000') into free from generate_series(0, 999) n
    where not exists (select from dis d join di_tags t on t.di_id = d.id
        where d.osf_id = osf and t.tag = today || to_char(n, 'FM000'))
    order by n limit 1;
    if free is null then
        raise exception 'there have been a thousand versions today' using errcode = 'QV014', hint = 'Name a version.';
    end if;
    return free;
end $$;

-- An image as administration changes it. Two changes of one OSF wait for each other.
create or replace function di_for_change(wanted text, out di dis, out runtime di_runtimes, out tenant integer)
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    named integer := di_id(wanted);
begin
    select o.tenant_id into tenant from osfs o where o.id = (select d.osf_id from dis d where d.id = named) for update;
    select d.* into di from dis d where d.id = named for update;
    if di.id is null then
        raise exception 'disk image % was just deleted', wanted using errcode = 'QV010';
    end if;
    select r.* into runtime from di_runtimes r where r.di_id = di.id for update;
end $$;

-- Among the published images of an OSF a tag belongs to one: the last that got it.
create or replace function di_take_tags(wanted dis) returns void
language sql volatile security definer set search_path = qvd, pg_temp as $$
    delete from di_tags t using dis d, di_runtimes r
    where d.id = t.di_id and r.di_id = d.id and d.osf_id = wanted.osf_id and d.id <> wanted.id and r.state = 'published'
        and not t.fixed and t.tag in (select m.tag from di_tags m where m.di_id = wanted.id)
$$;

create or replace function di_check_tag(osf integer, di integer, tag text) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
begin
    if coalesce(tag, '') = '' or tag ~ '[/[:cntrl:]]' or length(tag) > 128 then
        raise exception 'an image cannot have the tag %', quote_nullable(tag)
            using errcode = 'QV014', hint = 'Up to 128 characters, no slash.';
    elsif exists (select from di_tags t join dis d on d.id = t.di_id
            where d.osf_id = osf and t.fixed and t.tag = di_check_tag.tag and d.id is distinct from di) then
        raise exception 'tag % is the version of another image of this OSF', tag using errcode = 'QV013';
    end if;
end $$;

-- Where a file of the staging directory lies.
create or replace function staging_place(file text) returns text
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    at text;
begin
    select s.place into at
    from staging s join (select storage_place(id) as place from hosts) h on h.place = s.place
    where s.name = file
    group by s.place order by count(*) desc, s.place limit 1;
    if at is null then
        -- One that was put there this moment is not listed yet.
        select min(p.place) into at from (select distinct storage_place(id) as place from hosts) p having count(*) = 1;
    end if;
    if at is null then
        raise exception 'no staging directory holds %', file
            using errcode = 'QV010', hint = 'select * from staging_list; after select staging_refresh();';
    end if;
    return at;
end $$;

-- Makes a file of the staging directory a version of an OSF. A node that has the storage copies or moves it, checks it,
-- and publishes it unless `publish` is false; `select * from di_list` tells how far it is. Without `version` it is the
-- first of today that is free. It gets the tags `head` and `tags`, and `default` where the OSF has none yet. VMs that run
-- from another image when it is published expire after `soft` and `hard`.
create or replace function di_import(
    osf text, file text, version text default null, move boolean default false, tags text[] default '{}',
    publish boolean default true, soft interval default null, hard interval default null
) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    of_osf osfs;
    chosen text := version;
    at text;
    new_id integer;
    given text;
begin
    perform demand('di.create.');
    select o.* into of_osf from osfs o where o.id = osf_id(osf) for update;
    if coalesce(file, '') !~ '^[A-Za-z0-9_+~@-][A-Za-z0-9._+~@-]*$' or file like 'lock.%' or length(file) > 200 then
        raise exception '% cannot be the file name of a disk image', quote_nullable(file)
            using errcode = 'QV014', hint = 'Rename the file; letters, digits and ._+-~@ are allowed.';
    elsif soft < interval '0' or hard < interval '0' or hard < soft then
        raise exception 'VMs would be stopped before they are told'
            using errcode = 'QV014', hint = 'The hard expiration comes after the soft one.';
    end if;
    at := staging_place(file);
    if chosen is null then
        chosen := di_version_free(of_osf.id);
    end if;
    perform di_check_tag(of_osf.id, null, chosen);
    new_id := nextval(pg_get_serial_sequence('dis', 'id'));
    insert into dis (id, osf_id, path, version) values (new_id, of_osf.id, new_id || '-' || file, chosen);
    update di_runtimes set auto_publish = publish, expiration_time_soft = soft, expiration_time_hard = hard
    where di_id = new_id;
    insert into di_tags (di_id, tag, fixed) values (new_id, chosen, true), (new_id, 'head', false)
    on conflict do nothing;
    foreach given in array coalesce(tags, '{}') loop
        perform di_check_tag(of_osf.id, new_id, given);
        insert into di_tags (di_id, tag) values (new_id, given) on conflict do nothing;
    end loop;
    if not exists (select from di_tags t join dis d on d.id = t.di_id where d.osf_id = of_osf.id and t.tag = 'default') then
        insert into di_tags (di_id, tag) values (new_id, 'default');
    end if;
    insert into di_imports (di_id, place, source, move) values (new_id, at, file, move);
    perform storage_wake(at);
    return new_id;
exception when unique_violation then
    raise exception 'OSF % has a version % already', osf, chosen using errcode = 'QV013';
end $$;

-- Lets VMs start from an image that is ready. It takes its tags over from the images that had them; the VMs that run from
-- those expire as was said when it was made.
create or replace function di_publish(wanted text) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target record;
begin
    perform demand('di.update.publish.');
    select * into target from di_for_change(wanted);
    if (target.runtime).state = 'published' then
        return (target.di).id;
    elsif (target.runtime).state <> 'ready' then
        raise exception 'disk image % is %, and only one that is ready can be published', wanted, (target.runtime).state
            using errcode = 'QV021', hint = 'select state, percentage, message from di_list;';
    end if;
    update di_runtimes set state = 'published', state_ts = now() where di_id = (target.di).id;
    perform di_take_tags(target.di);
    -- A publication shortens a life and never prolongs one.
    update vm_runtimes r
    set vm_expiration_soft = least(r.vm_expiration_soft, now() + (target.runtime).expiration_time_soft),
        vm_expiration_hard = least(r.vm_expiration_hard, now() + (target.runtime).expiration_time_hard)
    from vm_specs s
    where s.vm_id = r.vm_id and s.di_id = (target.di).id and r.current_di_id <> (target.di).id
        and r.vm_state in ('starting', 'running', 'debugging')
        and coalesce((target.runtime).expiration_time_soft, (target.runtime).expiration_time_hard) is not null;
    perform audit('publish', 'di', (target.di).id, (target.di).path, target.tenant);
    return (target.di).id;
end $$;

-- Gives an image a tag; one that is published takes it from the other.
create or replace function di_tag(wanted text, tag text) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target record;
begin
    perform demand(case when tag = 'default' then 'di.update.default.' else 'di.update.tags.' end);
    select * into target from di_for_change(wanted);
    perform di_check_tag((target.di).osf_id, (target.di).id, di_tag.tag);
    insert into di_tags (di_id, tag) values ((target.di).id, di_tag.tag) on conflict do nothing;
    if (target.runtime).state = 'published' then
        perform di_take_tags(target.di);
    end if;
    return (target.di).id;
end $$;

-- Takes a tag away. An image keeps its version; `head` and `default` of published images only move.
create or replace function di_untag(wanted text, tag text) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target record;
    mark di_tags;
begin
    perform demand(case when tag = 'default' then 'di.update.default.' else 'di.update.tags.' end);
    select * into target from di_for_change(wanted);
    select t.* into mark from di_tags t where t.di_id = (target.di).id and t.tag = di_untag.tag;
    if mark.id is null then
        raise exception 'disk image % has no tag %', wanted, tag
            using errcode = 'QV010', hint = 'select osf, version, tags from di_list;';
    elsif mark.fixed then
        raise exception 'tag % is the version of disk image % and stays', tag, wanted using errcode = 'QV014';
    elsif tag in ('head', 'default') and (target.runtime).state = 'published' then
        raise exception 'tag % of a published disk image cannot be removed', tag
            using errcode = 'QV014', hint = 'Give it to another image.';
    end if;
    delete from di_tags t where t.id = mark.id;
    return (target.di).id;
end $$;

-- No VM starts from an image that is blocked.
create or replace function di_block(wanted text, blocked boolean default true) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target record;
begin
    perform demand('di.update.block.');
    select * into target from di_for_change(wanted);
    update dis d set blocked = di_block.blocked where d.id = (target.di).id;
    return (target.di).id;
end $$;

-- Deletes an image and, on every storage, its file. Refused while a VM runs from it, and when a VM would be left without
-- an image. `head` and `default` of a published image go to the newest other one.
create or replace function di_delete(wanted text) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target record;
    heir integer;
    dependent integer[];
    orphan integer;
begin
    perform demand('di.delete.');
    select * into target from di_for_change(wanted);
    if (target.runtime).state = 'published' then
        select d.id into heir from dis d join di_runtimes r on r.di_id = d.id
        where d.osf_id = (target.di).osf_id and d.id <> (target.di).id and r.state = 'published'
        order by d.id desc limit 1;
        insert into di_tags (di_id, tag)
        select heir, t.tag from di_tags t
        where heir is not null and t.di_id = (target.di).id and not t.fixed and t.tag in ('head', 'default')
        on conflict do nothing;
    end if;
    dependent := array(select s.vm_id from vm_specs s where s.di_id = (target.di).id);
    insert into di_leftovers (place, path)
    select distinct storage_place(h.id), (target.di).path from hosts h
    where not exists (select from dis d where d.path = (target.di).path and d.id <> (target.di).id)
    on conflict do nothing;
    delete from dis d where d.id = (target.di).id;
    select s.vm_id into orphan from vm_specs s where s.vm_id = any (dependent) and s.di_id is null order by s.vm_id limit 1;
    if orphan is not null then
        raise exception 'VM % would be left without a disk image', vm_name(orphan)
            using errcode = 'QV022', hint = 'Give its tag to another image, or the VM another tag.';
    end if;
    perform storage_wake(null);
    return (target.di).id;
end $$;
