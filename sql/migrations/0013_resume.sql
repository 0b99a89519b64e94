-- Tokens with which a client comes back to the desktop of a session whose router is gone.

alter table user_tokens add column session_id bigint references user_sessions on delete cascade;
create index on user_tokens (session_id) where session_id is not null;

-- Replaced by functions that are told more.
drop function if exists l7r_connected(bigint, text);
drop function if exists l7r_end(bigint, text, bigint, bigint);
