-- A property that holds secrets stays one: by another name everybody who may look at properties could read them.

create or replace function properties_list_guard() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    if new.key is distinct from old.key and (is_secret(old.key) or is_secret(new.key)) then
        raise exception 'the property % holds secrets and keeps its name', old.key using errcode = 'QV014';
    end if;
    return new;
end $$;

create or replace trigger guard before update of key on properties_list
    for each row execute function properties_list_guard();

create or replace function qvd_object_properties_list_guard() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    if exists (select from properties_list l where l.id in (old.property_id, new.property_id) and is_secret(l.key))
        and (old.id, old.property_id, old.qvd_object) is distinct from (new.id, new.property_id, new.qvd_object)
    then
        raise exception 'what holds secrets is not made another property' using errcode = 'QV014';
    end if;
    return new;
end $$;

create or replace trigger guard before update on qvd_object_properties_list
    for each row execute function qvd_object_properties_list_guard();
