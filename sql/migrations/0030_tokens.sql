-- What a connect asks of a user's tokens, found by index however many there are: those that are over, and those that the
-- sessions of a VM may be resumed with.
create index user_tokens_of_user on user_tokens (user_id, expiration);
drop index user_tokens_user_id_idx;
create index user_tokens_to_resume on user_tokens (vm_id) where session_id is not null;
