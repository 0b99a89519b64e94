-- Who watches a console hears when its node has sent something.

create or replace function vm_console_watches_wake() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform wake('qvd_admin', 'console', new.vm_id, (select v.tenant_id from vms v where v.id = new.vm_id));
    return null;
end $$;

create or replace trigger wake after update of file, position on vm_console_watches
    for each row when ((old.file, old.position) is distinct from (new.file, new.position))
    execute function vm_console_watches_wake();
