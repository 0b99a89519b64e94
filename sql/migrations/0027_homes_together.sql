-- Whether containers of one user have one home, so that all of them must be on one node.
-- Older programs go on.
alter table balancer add column same_home boolean not null default false;
