-- Whether a change of a key takes effect only when the daemons start again.
alter table config_keys add column needs_restart boolean not null default false;
