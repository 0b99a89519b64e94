-- Sessions are shown to administrators when they begin, connect and end; their byte counters change unseen.

create or replace function user_sessions_wake() returns trigger
language plpgsql as $$
begin
    perform qvd.announce('qvd_admin', qvd.wake_payload('session', new.id, new.tenant_id));
    return null;
end $$;

create or replace trigger wake after insert on user_sessions
    for each row execute function user_sessions_wake();
create or replace trigger wake_changes after update of connected_at, ended_at on user_sessions
    for each row when ((old.connected_at, old.ended_at) is distinct from (new.connected_at, new.ended_at))
    execute function user_sessions_wake();
