-- What roles come to is worked out again when something of them changes. What is fixed stays, but for the program's own roles, which
-- come with it.

create or replace function roles_renew() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    perform role_acls_renew();
    return null;
end $$;

create or replace trigger renew after insert or update or delete on acl_role_relations
    for each statement execute function roles_renew();
create or replace trigger renew after insert or update or delete on role_role_relations
    for each statement execute function roles_renew();

create or replace function roles_guard() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if old.fixed and (tg_op = 'DELETE' or (new.name, new.tenant_id, new.fixed, new.description)
            is distinct from (old.name, old.tenant_id, old.fixed, old.description)) then
        raise exception 'role % is fixed', old.name using errcode = 'QV042', hint = 'Make a role that inherits it.';
    end if;
    return coalesce(new, old);
end $$;

create or replace trigger guard before update or delete on roles for each row execute function roles_guard();

-- The recovery administrator is neither changed nor deleted.
create or replace function administrators_guard() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if old.id = 0 and (tg_op = 'DELETE' or new.id <> 0 or (new.name, new.tenant_id, new.role_name)
            is distinct from (old.name, old.tenant_id, old.role_name)) then
        raise exception 'the recovery administrator stays as he is' using errcode = 'QV041', hint = 'Only his password is set, by the owner.';
    end if;
    return coalesce(new, old);
end $$;

create or replace trigger guard before update or delete on administrators
    for each row execute function administrators_guard();
