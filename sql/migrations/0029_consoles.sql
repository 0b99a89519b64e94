-- Whose console somebody looks at. Its node sends what it says for so long and no longer.
create table vm_console_watches (
    vm_id integer primary key references vms on delete cascade,
    until timestamptz not null,
    -- The node that was asked for it last.
    host_id integer references hosts on delete set null,
    -- What of the node's file (its number) is here, so that another process of the node goes on from there.
    file bigint,
    position bigint not null default 0
);
create index on vm_console_watches (host_id);

-- The last that was said, in pieces; they go with the watch.
create table vm_console_pieces (
    id bigint generated always as identity primary key,
    vm_id integer not null references vm_console_watches on delete cascade,
    said text not null check (octet_length(said) <= 65536)
);
create index on vm_console_pieces (vm_id, id);
-- Older programs go on.
