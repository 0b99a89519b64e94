-- A DI comes with its runtime row and is not deleted while a VM runs from it.

create or replace function dis_guard() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    if exists (select from vm_runtimes where current_di_id = old.id) then
        raise exception 'a VM runs from image %', old.path using errcode = 'QV022', hint = 'Stop it first.';
    end if;
    return old;
end $$;

create or replace trigger guard before delete on dis for each row execute function dis_guard();

create or replace function dis_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if tg_op = 'INSERT' then
        insert into di_runtimes (di_id) values (new.id);
    end if;
    perform vm_specs_renew_osf(coalesce(new.osf_id, old.osf_id));
    perform wake('qvd_admin', 'di', coalesce(new.id, old.id),
        (select tenant_id from osfs where id = coalesce(new.osf_id, old.osf_id)));
    return null;
end $$;

create or replace trigger wake after insert or update or delete on dis
    for each row execute function dis_wake();
