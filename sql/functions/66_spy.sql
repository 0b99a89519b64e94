-- The desktop of a VM in an administrator's browser. Whether he may see it, or do something there, is decided here; the web tool
-- carries the bytes. It alone gets to know how the agent is asked, for this and for no other purpose.

-- Refuses who acts a look at a desktop, or a hand in it.
create or replace function vm_spy_check(vm integer, interactive boolean) returns void
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    target vm_runtimes;
begin
    select * into target from vm_runtimes r where r.vm_id = vm;
    if target.vm_id is null or not reaches(target.tenant_id) then
        raise exception 'there is no VM %', vm using errcode = 'QV010', hint = 'select id, vm from vm_list;';
    end if;
    perform demand('vm.spy.');
    if interactive then
        perform demand('vm.spy.interactive.');
    end if;
    if target.vm_state <> 'running' then
        raise exception 'VM % is %, so there is no desktop to be seen', vm_name(vm), target.vm_state
            using errcode = 'QV021', hint = 'Start it, and let its user connect.';
    end if;
end $$;

-- The same, once somebody looks: says where the agent is and with which secret it is asked, and puts it on record.
create or replace function vm_spy(vm integer, interactive boolean, out address inet, out port integer, out secret bytea)
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    perform vm_spy_check(vm, interactive);
    select r.vm_address, r.vm_vma_port, s.secret into address, port, secret
    from vm_runtimes r left join vm_specs s on s.vm_id = r.vm_id where r.vm_id = vm;
    perform audit('spy', 'vm', vm, vm_name(vm), (select r.tenant_id from vm_runtimes r where r.vm_id = vm),
        jsonb_build_object('interactive', interactive));
end $$;
