-- The life of a VM is guarded here, whoever writes: illegal transitions and commands are refused, what a stopped VM
-- must not have is cleared, and those who wait are woken.

-- What nobody waits for is done when a start or a run ends, so that the next start finds it done. Not a trigger: to find
-- out that one has nothing to do costs those who wait more than to ask for it here.
drop function if exists vm_run_account(integer, integer, vm_state, vm_state);
create or replace function vm_run_account(
    vm integer, node integer, was vm_state, becomes vm_state, told vm_cmd
) returns void
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if was = 'starting' then
        update vm_counters c set run_attempts = run_attempts + 1, run_ok = run_ok + (becomes = 'running')::integer
        where c.vm_id = vm;
        -- One that was told to stop has not failed. What fails is stopping before it has stopped, too.
        if becomes <> 'running' and told is distinct from 'stop' then
            insert into host_changes (host_id, failed_starts) values (node, 1);
        end if;
    end if;
    if becomes = 'stopped' then
        update vm_specs s set secret = fresh_secret() where s.vm_id = vm;
    end if;
end $$;

create or replace function vm_runtimes_guard() returns trigger
language plpgsql as $$
begin
    if new.vm_state is distinct from old.vm_state then
        if not qvd.vm_transition_allowed(old.vm_state, new.vm_state) then
            raise exception 'VM % cannot go from % to %', qvd.vm_name(new.vm_id), old.vm_state, new.vm_state
                using errcode = 'QV020', hint = 'The states of a VM follow each other as in ARCHITECTURE.md.';
        end if;
        new.vm_state_ts := now();
        if new.vm_state = 'stopped' then
            new.host_id := null;
            new.vm_cmd := null;
            new.current_di_id := null;
            new.vm_address := null;
            new.vm_vma_port := null;
            new.vm_x_port := null;
            new.vm_expiration_soft := null;
            new.vm_expiration_hard := null;
            new.vm_expiration_told := null;
            if new.user_state = 'connected' then
                new.user_cmd := 'abort';
            end if;
        end if;
        if old.vm_state <> 'stopped' then
            perform qvd.vm_run_account(new.vm_id, old.host_id, old.vm_state, new.vm_state, old.vm_cmd);
        end if;
    elsif new.host_id is distinct from old.host_id and new.vm_state <> 'stopped' then
        raise exception 'VM % is % and cannot change its host', qvd.vm_name(new.vm_id), new.vm_state
            using errcode = 'QV020', hint = 'Stop it first.';
    end if;

    if new.vm_cmd is not null and new.vm_cmd is distinct from old.vm_cmd then
        if not qvd.vm_command_allowed(new.vm_state, new.vm_cmd) then
            raise exception 'VM % is % and cannot be told to %', qvd.vm_name(new.vm_id), new.vm_state, new.vm_cmd
                using errcode = 'QV021', hint = case new.vm_cmd
                    when 'start' then 'Only a stopped VM can be started.'
                    else 'Only a VM that is starting, running or being debugged can be stopped.' end;
        end if;
        new.vm_cmd_ts := now();
        new.restart_due := false;
    end if;

    if new.user_state is distinct from old.user_state then
        if not qvd.user_transition_allowed(old.user_state, new.user_state) then
            raise exception 'the session of VM % cannot go from % to %',
                qvd.vm_name(new.vm_id), old.user_state, new.user_state using errcode = 'QV020';
        end if;
        new.user_state_ts := now();
        if new.user_state = 'disconnected' then
            new.user_cmd := null;
            new.contender := null;
            new.session_id := null;
            new.l7r_host_id := null;
            new.l7r_instance := null;
        end if;
    end if;
    -- What nobody uses and what does not run is nobody's: a VM of a pool goes to the next.
    if new.vm_state = 'stopped' and new.user_state = 'disconnected'
        and (old.vm_state, old.user_state) is distinct from (new.vm_state, new.user_state)
    then
        new.real_user_id := null;
    end if;
    if new.vm_expiration_soft is distinct from old.vm_expiration_soft then
        new.vm_expiration_told := null;
    end if;
    if new.user_cmd is distinct from old.user_cmd then
        new.user_cmd_ts := case when new.user_cmd is not null then now() end;
    end if;
    if new.user_cmd is not null and new.user_state = 'disconnected' then
        raise exception 'nobody uses VM %', qvd.vm_name(new.vm_id)
            using errcode = 'QV021', hint = 'Only a session that is connecting or connected can be aborted.';
    end if;
    return new;
end $$;

create or replace trigger guard before update on vm_runtimes
    for each row execute function vm_runtimes_guard();

-- Assignments and conditions only: a `perform` is a statement, and each costs those who wait for a command more than what it does.
create or replace function vm_runtimes_wake() returns trigger
language plpgsql as $$
declare
    payload text := qvd.wake_payload('vm', new.vm_id, new.tenant_id);
    told boolean := qvd.announce('qvd_admin', payload);
begin
    -- Who waits for a VM waits for a session to end, for the VM of a session to run, or for a VM to be down; not for a
    -- session to begin or a command to be claimed.
    if new.user_state = 'disconnected' and old.user_state <> 'disconnected'
        or new.user_state <> 'disconnected' and new.user_state = old.user_state
            and (old.vm_state, new.vm_state) is distinct from ('stopped', 'starting')
        or new.vm_state <> old.vm_state and new.vm_state in ('stopped', 'zombie')
    then
        told := qvd.announce('qvd_vm_' || new.vm_id, payload);
    end if;
    if new.vm_cmd is not null and new.vm_cmd is distinct from old.vm_cmd
        or new.host_id is not null and new.host_id is distinct from old.host_id
    then
        told := qvd.announce('qvd_host_' || new.host_id, payload);
    end if;
    -- A node that gives up a VM of its own accord knows already; one that loses it does not.
    if old.host_id is not null and new.host_id is distinct from old.host_id and old.vm_state not in ('stopping', 'starting') then
        told := qvd.announce('qvd_host_' || old.host_id, payload);
    end if;
    if (new.vm_expiration_soft, new.vm_expiration_hard) is distinct from (old.vm_expiration_soft, old.vm_expiration_hard)
        and new.vm_state <> 'stopped'
    then
        told := qvd.announce('qvd_node_' || new.host_id, payload);
    end if;
    if new.user_cmd is not null and new.user_cmd is distinct from old.user_cmd then
        perform qvd.wake('qvd_host_' || new.l7r_host_id, 'session', new.session_id, new.tenant_id);
    end if;
    return null;
end $$;

create or replace trigger wake
    after update of host_id, vm_state, vm_cmd, user_state, user_cmd, session_id, blocked, vm_reason,
        vm_expiration_soft, vm_expiration_hard
    on vm_runtimes for each row execute function vm_runtimes_wake();

-- How many VMs a node has is counted beside the node, see `host_changes`.
create or replace function vm_runtimes_count() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    if tg_op <> 'INSERT' and old.host_id is not null then
        insert into host_changes (host_id, vms) values (old.host_id, -1);
    end if;
    if tg_op <> 'DELETE' and new.host_id is not null then
        insert into host_changes (host_id, vms) values (new.host_id, 1);
    end if;
    return null;
end $$;

-- A VM that stops loses its node to the guard.
create or replace trigger count after update of host_id, vm_state on vm_runtimes for each row
    when (old.host_id is distinct from new.host_id) execute function vm_runtimes_count();
create or replace trigger count_deleted after delete on vm_runtimes for each row
    when (old.host_id is not null) execute function vm_runtimes_count();
