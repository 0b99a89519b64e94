-- The newest one-time password that a user has used: each opens the door once. It is known by the start of its interval,
-- in seconds since 1970, which means the same when the length of the intervals is changed.
create table totp_used (
    user_id integer primary key references users on delete cascade,
    interval_start bigint not null
);
