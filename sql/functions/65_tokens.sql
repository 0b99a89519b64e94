-- Tokens: what stands for a user without a password, and what the user's authentication learnt.

-- Keeps what authentication learnt, for tokens that others will make. What was kept long ago and is not used by a
-- token goes.
create or replace function l7r_auth_parameters_keep(account integer, learnt jsonb) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    kept integer;
begin
    perform tokens_expire(account);
    delete from user_auth_parameters p
    where p.user_id = account and p.kept_since < now() - interval '7 days'
        and not exists (select from user_tokens t where t.auth_params_id = p.id);
    insert into user_auth_parameters (parameters, user_id, kept_since) values (learnt, account, now())
    returning id into kept;
    return kept;
end $$;

-- Makes a token for a day and as many uses as wanted. Returns the id of its parameters.
create or replace function l7r_token_create(account integer, token text, learnt jsonb, vm integer) returns integer
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    stored integer;
begin
    perform tokens_expire(account);
    with of_token as (
        insert into user_auth_parameters (parameters, user_id) values (learnt, account) returning id)
    insert into user_tokens (token, user_id, vm_id, expiration, auth_params_id, multi_use)
    select l7r_token_create.token, account, vm, now() + interval '24 hours', id, true from of_token
    returning auth_params_id into stored;
    return stored;
end $$;

-- The session whose client comes back with this token, which begins with its name. It is good as long as the session lasts
-- and for a while after it, and once: until its bearer is connected to the VM again.
create or replace function resumed_session(presented text) returns user_sessions
language plpgsql stable security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
declare
    resumed user_sessions;
begin
    select s.* into resumed from session_resumes r join user_sessions s on s.id = r.session_id
    where r.session_id = substring(presented from '^([0-9]{1,18})[.]')::bigint and r.token = token_digest(presented)
        and (s.ended_at is null or s.ended_at > now() - resumable_for())
        and not exists (
            select from user_sessions later
            where later.vm_id = s.vm_id and later.started_at > s.started_at and later.user_id = s.user_id
                and later.connected_at is not null);
    return resumed;
end $$;

-- How long after the end of a session its client may come back.
create or replace function resumable_for() returns interval
language sql immutable parallel safe
return interval '5 minutes';

-- What is kept of a token that is known to its bearer alone.
create or replace function token_digest(token text) returns text
language sql immutable strict parallel safe
return encode(sha256(convert_to(token, 'UTF8')), 'hex');

-- The expired tokens of an account.
create or replace function tokens_expire(account integer) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    -- A look is cheaper than to delete nothing.
    if exists (select from user_tokens where user_id = account and expiration < now()) then
        delete from user_tokens where user_id = account and expiration < now();
    end if;
end $$;
