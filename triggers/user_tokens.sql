-- With a token goes what authentication learnt for it alone, however the token goes.

create or replace function user_tokens_gone() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp
    set plan_cache_mode = force_generic_plan as $$
begin
    delete from user_auth_parameters p using gone
    where p.id = gone.auth_params_id and p.kept_since is null
        and not exists (select from user_tokens t where t.auth_params_id = p.id);
    return null;
end $$;

create or replace trigger gone after delete on user_tokens
    referencing old table as gone for each statement execute function user_tokens_gone();
