-- After a backup was restored, or the database moved to another server. Daemons do not use a database that says of itself
-- that it belongs to another server than the one it is on; whoever has restored it says so here. Only for its owner.

-- Makes void whatever lives from before: every node begins another life, which no number of an earlier one can be taken
-- for, so that its daemon ends the VMs that it finds; sessions and tokens are over; and no number that may have been given
-- to a VM, a user or an image since the backup is given again, because homes on the storage are named after them. With
-- `complete`, nothing that was committed is missing (an upgrade of the server, say), and everything goes on. Returns how many
-- VMs were up.
create or replace function database_restored(complete boolean default false) returns integer
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    node integer;
    used record;
    up integer := 0;
begin
    if not complete then
        for node in select host_id from host_runtimes order by host_id loop
            -- Lives are begun less often than once in a second, so the time is beyond all that were begun since the backup.
            update host_runtimes r
            set epoch = greatest(r.epoch + 1, extract(epoch from clock_timestamp())::bigint), pid = null,
                state = case when r.state in ('stopped', 'lost') then r.state else 'lost' end
            where r.host_id = node;
            up := up + cardinality(host_forget(node, 'the database was restored from a backup'));
        end loop;
        update l7r_instances set ended_at = now() where ended_at is null;
        delete from user_tokens;
        delete from session_resumes;
        for used in select format('%I.%I', schemaname, sequencename) as name, coalesce(last_value, 0) as value
            from pg_sequences where schemaname = 'qvd' loop
            perform setval(used.name, used.value + 100000);
        end loop;
    end if;
    insert into versions select 'server', system_identifier::text from pg_control_system()
    on conflict (component) do update set version = excluded.version;
    perform audit('restored', 'database', null, current_database(), 0, jsonb_build_object('complete', complete, 'vms', up));
    return up;
end $$;
