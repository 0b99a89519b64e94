-- Older programs go on.
-- Which program runs a node, so that whoever brings the schema to a newer version knows what that stops.

alter table host_runtimes
    -- Version of the program of its hkd.
    add column program text,
    -- The newest migration that this program knows.
    add column program_schema integer;
