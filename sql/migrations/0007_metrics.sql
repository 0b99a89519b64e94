-- What tunnels carried and why sessions ended, per node, added up by its routers.

create table tunnel_counters (
    host_id integer not null references hosts on delete cascade,
    -- How the bytes were moved, as in user_sessions.
    tunnel text not null,
    tunnels bigint not null default 0,
    bytes_up bigint not null default 0,
    bytes_down bigint not null default 0,
    primary key (host_id, tunnel)
);

create table end_counters (
    host_id integer not null references hosts on delete cascade,
    reason text not null,
    sessions bigint not null default 0,
    primary key (host_id, reason)
);

-- The password that routers bind to a directory with was told to whoever may read the log.
update log set arguments = '{"value": "(secret)"}'
where qvd_object = 'config' and object_name = 'auth.ldap.bindpass' and arguments ? 'value';
