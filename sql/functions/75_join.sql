-- Making a machine a node, and a node a machine again. Only who may make roles can do that, and only the owner of the schema
-- may call these.

-- The role that a daemon of a node logs in as. Roles belong to the server, so the database is in the name.
create or replace function node_login(daemon text, host integer) returns text
language sql stable as $$ select left(current_database(), 40) || '_' || daemon || '_' || host $$;

-- Puts a machine on record and makes the two roles that its daemons log in as, members of qvd_node and qvd_l7r. The
-- passwords come as SCRAM verifiers, so they are in no log of the server. A machine that is made anew joins again under its old
-- name and address, with new passwords.
create or replace function node_join(
    wanted text, wanted_address inet, storage uuid, node_verifier text, l7r_verifier text,
    out host integer, out node_role text, out l7r_role text
)
language plpgsql set search_path = qvd, pg_temp as $$
declare
    known hosts;
    login record;
begin
    select * into known from hosts h where h.name = wanted;
    if known.id is null then
        host := host_create(wanted, wanted_address);
    elsif known.address <> wanted_address then
        raise exception 'host % has the address %', wanted, host(known.address)
            using errcode = 'QV013', hint = 'Take another name, or that address.';
    elsif exists (select from host_runtimes r where r.host_id = known.id and r.state not in ('stopped', 'lost')) then
        raise exception 'host % is in use', wanted
            using errcode = 'QV022', hint = 'Take another name, or stop that node first.';
    else
        host := known.id;
    end if;
    update hosts set storage_id = storage where id = host;
    node_role := node_login('node', host);
    l7r_role := node_login('l7r', host);
    for login in select * from (values (node_role, 'qvd_node', node_verifier), (l7r_role, 'qvd_l7r', l7r_verifier))
        as l (name, member_of, verifier)
    loop
        if login.verifier not like 'SCRAM-SHA-256$%' then
            raise exception 'the password of % is no SCRAM verifier', login.name using errcode = 'QV014';
        end if;
        if not exists (select from pg_roles where rolname = login.name) then
            execute format('create role %I in role %I', login.name, login.member_of);
        end if;
        execute format('alter role %I login password %L', login.name, login.verifier);
    end loop;
    perform audit('join', 'host', host, wanted, 0, jsonb_build_object('storage', storage));
end $$;

-- Takes a node that is stopped off the record, with its roles.
create or replace function node_leave(wanted text) returns integer
language plpgsql set search_path = qvd, pg_temp as $$
declare
    host integer;
    role text;
begin
    delete from hosts h where h.name = wanted returning h.id into host;
    if host is null then
        raise exception 'there is no host %', wanted using errcode = 'QV010', hint = 'select name from hosts;';
    end if;
    foreach role in array array[node_login('node', host), node_login('l7r', host)] loop
        if exists (select from pg_roles where rolname = role) then
            execute format('drop role %I', role);
        end if;
    end loop;
    perform audit('leave', 'host', host, wanted, 0);
    return host;
end $$;
