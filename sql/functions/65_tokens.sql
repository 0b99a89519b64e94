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

-- Whoever is connected has used up what it came with. The token that it may come back with, if it wants one, is for this
-- user and this VM, good as long as the session lasts and for a while after it (triggers/user_sessions.sql), and once.
drop function if exists token_resume(bigint, text, jsonb);
create or replace function token_resume(here user_sessions, token text, learnt jsonb) returns void
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    update user_tokens set expiration = '-infinity'
    where user_id = here.user_id and vm_id = here.vm_id and session_id is not null;
    if token is null then
        return;
    end if;
    with of_token as (
        insert into user_auth_parameters (parameters, user_id) values (learnt, here.user_id) returning id)
    insert into user_tokens (token, user_id, vm_id, expiration, auth_params_id, multi_use, session_id)
    select token_digest(token_resume.token), here.user_id, here.vm_id, 'infinity', id, false, here.id from of_token;
end $$;

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
