-- What is kept for a while is found by when it ended, and goes without every VM being asked whether it still needs it:
-- that a session in use has not ended is seen to by the functions that write sessions.
create index user_sessions_ended on user_sessions (ended_at) where ended_at is not null;
alter table vm_runtimes drop constraint vm_runtimes_session_id_fkey;
