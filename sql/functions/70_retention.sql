-- What is kept for a while: the log, sessions that have ended, tokens, routers that are gone.

-- Deletes up to `batch` rows of each kind that have been kept long enough. Returns how many rows went, so that the caller
-- comes again until none do. While another caller is at it, there is nothing to do.
create or replace function retention_apply(batch integer default 1000) returns bigint
language plpgsql security definer set search_path = qvd, pg_temp as $$
declare
    keep_log interval := seconds(config_get('retention.log')) * interval '1 second';
    keep_sessions interval := seconds(config_get('retention.sessions')) * interval '1 second';
    total bigint := 0;
    gone bigint;
begin
    if not pg_try_advisory_xact_lock(hashtext('qvd.retention')) then
        return 0;
    end if;
    perform set_config('synchronous_commit', 'off', true);
    if keep_log > '0' then
        delete from log where id in (select l.id from log l where l.time < now() - keep_log order by l.time limit batch);
        get diagnostics gone = row_count;
        total := total + gone;
    end if;
    if keep_sessions > '0' then
        delete from user_sessions where id in (
            select s.id from user_sessions s where s.ended_at < now() - keep_sessions order by s.ended_at limit batch);
        get diagnostics gone = row_count;
        total := total + gone;
        -- Few, since each is looked for among all VMs.
        delete from l7r_instances where id in (
            select i.id from l7r_instances i where i.ended_at < now() - keep_sessions
                and not exists (select from vm_runtimes r where r.l7r_instance = i.id) limit 10);
        get diagnostics gone = row_count;
        total := total + gone;
    end if;
    -- Of nodes that are no more; others do so themselves.
    delete from vm_console_watches w where w.until < now();
    get diagnostics gone = row_count;
    total := total + gone;
    delete from session_resumes where session_id in (
        select r.session_id from session_resumes r join user_sessions s on s.id = r.session_id
        where s.ended_at <= now() - resumable_for() limit batch);
    get diagnostics gone = row_count;
    total := total + gone;
    select count(tokens_expire(t.user_id)) into gone from (
        select distinct k.user_id from user_tokens k where k.expiration < now() limit batch) t;
    return total + gone;
end $$;
