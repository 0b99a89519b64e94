-- Where the router of a node takes connections of other nodes, and the key (SubjectPublicKeyInfo) that it proves to be itself
-- with. The private half is nowhere but in the memory of that process.
-- Older programs go on.
alter table l7r_instances
    add column node_port integer check (node_port between 1 and 65535),
    add column node_key bytea,
    add constraint l7r_instances_node check ((node_port is null) = (node_key is null));
