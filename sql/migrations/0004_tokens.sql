-- Who wants a session to end, and whose the parameters of tokens are.

-- Address of the client that wants the VM; null when it is not a client that does.
alter table vm_runtimes add column contender inet;

alter table user_auth_parameters
    add column user_id integer references users on delete cascade,
    -- Stored on demand, for tokens that others make; the rest goes with its token.
    add column kept_since timestamptz;
create index on user_auth_parameters (user_id);
create index on user_tokens (user_id);
create index on user_tokens (auth_params_id);

-- Replaced by functions that answer more.
drop function if exists l7r_vms(integer, boolean);
drop function if exists l7r_aborted(bigint);
drop function if exists l7r_acquire(bigint, integer, integer, inet, text);
drop function if exists l7r_session(bigint);
