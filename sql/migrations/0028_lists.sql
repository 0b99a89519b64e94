-- What became a view, or takes one argument more.
-- Older programs go on.
drop function if exists host_label(integer) cascade;
drop function if exists merged(text);
