-- Since when the daemon of a node runs, so that it can be said which settings it has not read. Null: since before this was kept.
-- Older programs go on.
alter table host_runtimes add column started_at timestamptz;
