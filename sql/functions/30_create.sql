-- Administration: making things.

create or replace function tenant_create(
    name text, description text default null, language language default 'auto', block integer default 10
) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    new_id integer;
begin
    perform demand_superadministrator('making tenants');
    perform demand('tenant.create.');
    insert into tenants (name, description, language, block)
    values (btrim(name), description, language, block) returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'tenant % exists already', name using errcode = 'QV013';
end $$;

-- Superadministrators own no objects of QVD.
create or replace function demand_owning(tenant integer, what text) returns void
language plpgsql stable as $$
begin
    if tenant <= 0 then
        raise exception 'the tenant of superadministrators has no %', what
            using errcode = 'QV014', hint = 'Name another tenant.';
    end if;
end $$;

-- A password is hashed with bcrypt here; the first login turns it into argon2id.
create or replace function password_hash(password text) returns text
language sql volatile security definer set search_path = qvd, pg_temp as $$
    select crypt(password, gen_salt('bf', 10))
$$;

create or replace function user_create(login text, password text default null, tenant text default null) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    wanted record;
    in_tenant integer;
    new_id integer;
begin
    select * into wanted from name_and_tenant(login);
    in_tenant := tenant_for(coalesce(wanted.tenant, user_create.tenant));
    perform demand('user.create.');
    perform demand_owning(in_tenant, 'users');
    if password = '' then
        raise exception 'user % needs a password that is not empty', login
            using errcode = 'QV014', hint = 'Leave it out for a user who cannot log in with a password kept here.';
    end if;
    insert into users (tenant_id, login, password)
    values (in_tenant,
        case when config_get('model.user.login.case-sensitive') in ('1', 'yes', 'true', 'on')
            then wanted.name else lower(wanted.name) end,
        password_hash(user_create.password))
    returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'user % exists already', login using errcode = 'QV013';
end $$;

create or replace function user_password(wanted text, password text) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target users;
begin
    if coalesce(password, '') = '' then
        raise exception 'the password of % must not be empty', wanted using errcode = 'QV014';
    end if;
    perform demand('user.update.password.');
    update users u set password = password_hash(user_password.password) where u.id = user_id(wanted)
    returning * into target;
end $$;

-- Stores what the one-time passwords of a user are made from (base32); null: forgets it. Says how they are used in the
-- user's tenant.
create or replace function user_totp(
    wanted text, secret text,
    out account text, out had_one boolean, out required boolean, out digits bigint, out period bigint, out t0 bigint
)
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    target users;
    property integer;
    kind integer;
begin
    perform demand('user.update.password.');
    select * into target from users u where u.id = user_id(wanted);
    if secret !~ '^[A-Z2-7]{16,}$' then
        raise exception 'the secret of % must be at least 16 characters of base32', wanted using errcode = 'QV014';
    end if;
    delete from user_properties p using qvd_object_properties_list o, properties_list l
    where p.user_id = target.id and o.id = p.property_id and o.qvd_object = 'user' and l.id = o.property_id
        and l.tenant_id = target.tenant_id and l.key = 'l7r.auth.plugin.totp.secret32';
    had_one := found;
    -- What was used up belongs to the secret that was.
    delete from totp_used u where u.user_id = target.id;
    if secret is not null then
        insert into properties_list (key, tenant_id, description)
        values ('l7r.auth.plugin.totp.secret32', target.tenant_id, 'Secret of one-time passwords, in base32')
        on conflict (key, tenant_id) do update set key = excluded.key returning id into property;
        insert into qvd_object_properties_list (property_id, qvd_object) values (property, 'user')
        on conflict (property_id, qvd_object) do update set qvd_object = excluded.qvd_object returning id into kind;
        insert into user_properties (user_id, property_id, value) values (target.id, kind, secret);
    end if;
    perform audit('update', 'user', target.id, target.login, target.tenant_id,
        jsonb_build_object('totp', case when secret is null then 'removed' else 'made' end));
    select target.login || '@' || t.name into account from tenants t where t.id = target.tenant_id;
    select bool_or('TOTP' = any (regexp_split_to_array(coalesce(config_get(key, target.tenant_id), ''), '[ ,]+')))
    into required
    from unnest(array['l7r.auth.plugins.head', 'l7r.auth.plugins', 'l7r.auth.plugins.tail']) key;
    digits := seconds(config_get('l7r.auth.plugin.totp.token_size', target.tenant_id));
    period := seconds(config_get('l7r.auth.plugin.totp.interval', target.tenant_id));
    t0 := seconds(config_get('l7r.auth.plugin.totp.t0', target.tenant_id));
end $$;

create or replace function host_create(name text, address inet, description text default null) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    new_id integer;
begin
    perform demand_superadministrator('making hosts');
    perform demand('host.create.');
    insert into hosts (name, address, description) values (name, host_create.address, description)
    returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'a host named % or with address % exists already', name, address
        using errcode = 'QV013', hint = 'select name, address from hosts;';
end $$;

-- `memory` and `user_storage` in MB. Without `cpus` its VMs have as many processors as the configuration says.
create or replace function osf_create(
    name text, memory integer default null, user_storage integer default 0, tenant text default null,
    cpus integer default null
) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    wanted record;
    in_tenant integer;
    new_id integer;
begin
    select * into wanted from name_and_tenant(osf_create.name);
    in_tenant := tenant_for(coalesce(wanted.tenant, osf_create.tenant));
    perform demand('osf.create.');
    perform demand_owning(in_tenant, 'OSFs');
    if osf_create.memory is not null then
        perform demand('osf.create.memory.');
    end if;
    if user_storage <> 0 then
        perform demand('osf.create.user-storage.');
    end if;
    insert into osfs (tenant_id, name, memory, user_storage_size, cpus)
    values (in_tenant, wanted.name, coalesce(osf_create.memory, config_get('osf.default.memory', in_tenant)::integer),
        user_storage, osf_create.cpus)
    returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'OSF % exists already', name using errcode = 'QV013';
end $$;

-- Makes the file `path` below the images directory the newest version of an OSF: its tags are its version (fixed),
-- `head` and `default`, which are taken from the version that had them.
create or replace function di_create(osf text, path text, version text default null) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    of_osf integer := osf_id(osf);
    wanted text := version;
    new_id integer;
begin
    perform demand('di.create.');
    perform 1 from osfs where id = of_osf for update;
    if wanted is null then
        wanted := di_version_free(of_osf);
    end if;
    insert into dis (osf_id, path, version) values (of_osf, di_create.path, wanted) returning id into new_id;
    update di_runtimes set state = 'published', state_ts = now(), percentage = 100 where di_id = new_id;
    insert into di_tags (di_id, tag, fixed)
    values (new_id, wanted, true), (new_id, 'head', false), (new_id, 'default', false);
    -- Only now, so that at no moment a VM of the OSF has no image.
    delete from di_tags t using dis d
    where d.id = t.di_id and d.osf_id = of_osf and d.id <> new_id and t.tag in ('head', 'default') and not t.fixed;
    return new_id;
exception when unique_violation then
    raise exception 'OSF % has a version % already', osf, wanted using errcode = 'QV013';
end $$;

-- The highest free address of the VM network, of IPv4 or IPv6. There are no more than the programs make hardware addresses of.
create or replace function vm_address_free() returns inet
language plpgsql stable security definer set search_path = qvd, pg_temp as $$
declare
    first inet := config_get('vm.network.ip.start')::inet;
    mask text := config_get('vm.network.netmask');
    network inet;
    last inet;
    chosen inet;
begin
    if mask like '%.%' then
        if family(first) = 6 then
            raise exception '% is no netmask of IPv6', mask
                using errcode = 'QV014', hint = 'Set vm.network.netmask to a length, such as 64.';
        end if;
        mask := (select sum(length(replace(octet::integer::bit(8)::text, '0', '')))
            from unnest(string_to_array(mask, '.')) octet)::text;
    end if;
    network := set_masklen(first, mask::integer);
    last := least(host(broadcast(network))::inet - 1, first + 16777214);
    -- The highest address that nobody has: either the top of the range or just below a VM or a host.
    select candidate into chosen from (
        select last as candidate
        union all
        select v.ip - 1 from vms v where v.ip between first and last
        union all
        select h.address - 1 from hosts h where h.address between first and last
    ) candidates
    where candidate >= first
        and not exists (select from vms v where v.ip = candidate)
        and not exists (select from hosts h where h.address = candidate)
    order by candidate desc limit 1;
    if chosen is null then
        raise exception 'no address is free between % and %', host(first), host(last)
            using errcode = 'QV032', hint = 'Widen vm.network.netmask or lower vm.network.ip.start.';
    end if;
    return chosen;
end $$;

create or replace function vm_create(
    owner text, name text, osf text, tag text default 'default', ip inet default null
) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    -- By itself, since a planner that tries it out would not see a user made by the same statement.
    owner_id integer := user_id(owner);
    of_user users;
    of_osf osfs;
    new_id integer;
begin
    perform demand('vm.create.');
    if tag <> 'default' then
        perform demand('vm.create.di-tag.');
    end if;
    if vm_create.ip is not null then
        perform demand_superadministrator('choosing the address of a VM');
    end if;
    select * into of_user from users where id = owner_id;
    -- An OSF without a tenant is looked for in the owner's.
    select o.* into of_osf from osfs o join tenants t on t.id = o.tenant_id, name_and_tenant(osf) n
    where o.name = n.name and o.tenant_id = of_user.tenant_id and t.name = coalesce(n.tenant, t.name);
    if of_osf.id is null then
        raise exception 'there is no OSF % in the tenant of %', osf, owner
            using errcode = 'QV010', hint = 'select name from osfs;';
    end if;
    -- One at a time chooses an address.
    perform pg_advisory_xact_lock(hashtext('qvd.vm_address'));
    insert into vms (name, user_id, osf_id, di_tag, ip)
    values (vm_create.name, of_user.id, of_osf.id, tag, coalesce(vm_create.ip, vm_address_free()))
    returning id into new_id;
    return new_id;
exception when unique_violation then
    raise exception 'VM % of % exists already, or another VM has its address', name, owner using errcode = 'QV013';
end $$;
