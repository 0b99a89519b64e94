-- Older programs go on.
-- Disk images are taken from a staging directory by any node that has the storage.

alter table di_runtimes
    -- Of the file, as it was read when it was checked; null for one that was put into its place by hand.
    add column sha256 text check (sha256 ~ '^[0-9a-f]{64}$'),
    add column size bigint;

-- What a storage holds, as one of its nodes saw it last. The place is the identity of a shared storage, or the node that
-- has one of its own.
create table storage_reports (
    place text primary key,
    reported_at timestamptz not null default '-infinity',
    -- Why the staging directory cannot be read.
    problem text
);
create table staging (
    place text not null references storage_reports on delete cascade,
    name text not null,
    -- Bytes.
    size bigint not null,
    modified timestamptz not null,
    -- What its first bytes say: tar, tar.gz, qcow2 and so on.
    kind text not null,
    primary key (place, name)
);

-- Images on their way from staging to their place. Claimed by a node in an epoch, and free again when that is over.
create table di_imports (
    di_id integer primary key references dis on delete cascade,
    place text not null,
    source text not null,
    move boolean not null,
    host_id integer references hosts on delete set null,
    epoch bigint,
    attempts integer not null default 0
);
create index on di_imports (place);

-- Files of images that were deleted, until a node has removed them.
create table di_leftovers (
    place text not null,
    path text not null,
    primary key (place, path)
);
