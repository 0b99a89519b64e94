-- Which machine a node is, so that another boot of it can be told from another machine of the same name.

alter table host_runtimes add column machine_id text;

-- Replaced by one that is told more.
drop function if exists node_start(text, uuid, integer, uuid, float8);
