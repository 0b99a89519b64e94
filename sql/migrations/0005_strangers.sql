-- What routers turn away, and what they cannot use.

alter table host_counters
    -- Closed at once, because too many that had not logged in were there.
    add column refused_connections bigint not null default 0,
    -- Broken off, stopped, nonsense, or of versions and ciphers that are not spoken.
    add column failed_handshakes bigint not null default 0,
    -- HTTP in the clear where TLS is spoken.
    add column plain_http bigint not null default 0,
    -- Took too long to send a request.
    add column slow_clients bigint not null default 0,
    -- Logins answered with 429, unchecked.
    add column limited_logins bigint not null default 0;

alter table l7r_instances
    -- What is stored for it and cannot be used, such as a certificate; null when there is nothing.
    add column problem text;
