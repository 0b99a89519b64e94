-- Older programs go on.

-- It takes the image as well.
drop function if exists node_adopt(integer, bigint, integer, integer, integer, bytea);
-- Tokens that went without them left these behind.
delete from user_auth_parameters p
where p.kept_since is null and not exists (select from user_tokens t where t.auth_params_id = p.id);
