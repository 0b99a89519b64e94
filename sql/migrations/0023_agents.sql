-- Older programs go on.
-- Which agent containers of an image have: that of the node (ours), that of the image, or that of the image if it brings one.
alter table dis add column agent text not null default 'auto' check (agent in ('auto', 'ours', 'image'));
alter table vm_specs add column agent text;
update vm_specs set agent = 'auto' where di_id is not null;

-- The one that is there now has a column less.
drop function if exists node_claim(integer, bigint, integer, integer);
