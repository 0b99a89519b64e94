-- The L7Rs load a new certificate when it is stored.

create or replace function ssl_configs_wake() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    perform wake('qvd_config', 'ssl', null);
    return null;
end $$;

create or replace trigger wake after insert or update or delete on ssl_configs
    for each row execute function ssl_configs_wake();
