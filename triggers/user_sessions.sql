-- Sessions are shown to administrators when they begin, connect and end; their byte counters change unseen. With a
-- session ends the time in which its client may come back with a token, a while later.

create or replace function user_sessions_wake() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    perform wake('qvd_admin', 'session', new.id, new.tenant_id);
    return null;
end $$;

create or replace trigger wake after insert on user_sessions
    for each row execute function user_sessions_wake();
create or replace trigger wake_changes after update of connected_at, ended_at on user_sessions
    for each row when ((old.connected_at, old.ended_at) is distinct from (new.connected_at, new.ended_at))
    execute function user_sessions_wake();

create or replace function user_sessions_ended() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    update user_tokens set expiration = now() + interval '5 minutes'
    where session_id = new.id and expiration > now() + interval '5 minutes';
    return null;
end $$;

create or replace trigger ended after update of ended_at on user_sessions
    for each row when (old.ended_at is null and new.ended_at is not null)
    execute function user_sessions_ended();
