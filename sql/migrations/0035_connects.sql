-- A connect writes less: a token to come back with is kept with its session, which it names, and needs nothing to be found or
-- to end by; and the router knows the limits. Tokens of before are over: their holders log in.
create table session_resumes (
    session_id bigint primary key references user_sessions on delete cascade,
    token text not null,
    parameters jsonb not null
);
delete from user_tokens where session_id is not null;
alter table user_tokens drop column session_id;
drop trigger if exists ended on user_sessions;
drop function if exists user_sessions_ended();
drop function if exists token_resume(user_sessions, text, jsonb);
drop function if exists l7r_connected(bigint, text, text, jsonb);
drop function if exists l7r_acquire(bigint, bigint, integer, integer, inet, text, jsonb);
