-- Logins of the last hour are counted each time that an overview is shown, out of all that are kept. Not a BRIN: sessions are
-- changed when they connect and end, so that versions of rows of many days come to share pages.
-- Older programs go on.
create index user_sessions_started on user_sessions (started_at);
