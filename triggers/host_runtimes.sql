-- The states of a node; its lease and its figures change all the time and wake nobody.

create or replace function host_runtimes_guard() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    if not host_transition_allowed(old.state, new.state) then
        raise exception 'host % cannot go from % to %', new.host_id, old.state, new.state using errcode = 'QV020';
    elsif new.epoch < old.epoch then
        raise exception 'the epoch of host % cannot go back', new.host_id using errcode = 'QV020';
    end if;
    return new;
end $$;

create or replace trigger guard before update of state, epoch on host_runtimes
    for each row execute function host_runtimes_guard();

create or replace function host_runtimes_wake() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    if new.cmd is distinct from old.cmd then
        perform wake('qvd_node_' || new.host_id, 'host', new.host_id);
    end if;
    if new.epoch <> old.epoch or new.blocked <> old.blocked
        or new.state <> old.state then
        perform wake('qvd_host_' || new.host_id, 'host', new.host_id);
    end if;
    perform wake('qvd_admin', 'host', new.host_id);
    return null;
end $$;

create or replace trigger wake after update of state, blocked, cmd, epoch, events_degraded_since, storage_degraded_since
    on host_runtimes
    for each row
    when ((old.state, old.blocked, old.cmd, old.epoch, old.events_degraded_since, old.storage_degraded_since)
        is distinct from (new.state, new.blocked, new.cmd, new.epoch, new.events_degraded_since, new.storage_degraded_since))
    execute function host_runtimes_wake();
