-- When VMs and users were made, so that lists find them by it; the log, which said so, forgets. What it has is taken over.
-- Older programs go on.
alter table vms add column created_at timestamptz;
alter table users add column created_at timestamptz;
-- Nothing changes that anybody is told of.
alter table vms disable trigger user;
alter table users disable trigger user;
update vms v set created_at = l.at
from (select object_id, max(time) as at from log where qvd_object = 'vm' and action = 'create' group by object_id) l
where l.object_id = v.id;
update users u set created_at = l.at
from (select object_id, max(time) as at from log where qvd_object = 'user' and action = 'create' group by object_id) l
where l.object_id = u.id;
alter table vms enable trigger user;
alter table users enable trigger user;
alter table vms alter column created_at set default now();
alter table users alter column created_at set default now();
create index vms_by_creation on vms (created_at);
create index users_by_creation on users (created_at);

-- The last three bytes of the address in hexadecimal digits, which are those of the VM's hardware address. A column, since an index of
-- an expression is of no use below policies unless it leaks nothing.
alter table vms add column mac_tail text generated always as (right(encode(inet_send(ip), 'hex'), 6)) stored;
create index vms_by_mac on vms (mac_tail);
