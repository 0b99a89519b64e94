-- The newest interval of which a user has used the one-time password: each opens the door once.
create table totp_used (
    user_id integer primary key references users on delete cascade,
    step bigint not null
);
