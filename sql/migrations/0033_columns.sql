-- Of every list the columns can be chosen.
-- Older programs go on.
alter table views_setups drop constraint views_setups_qvd_object_check;
alter table views_setups add constraint views_setups_qvd_object_check check (qvd_object in
    ('user', 'vm', 'log', 'host', 'osf', 'di', 'role', 'administrator', 'tenant', 'session', 'property', 'acl', 'config', 'staging',
     'tunnel', 'end'));
