-- An organisation as administrators meet it: what runs, what waits and what is in trouble. Nodes and sessions are written
-- without triggers, for there are none.
select tenant_create('engineering', 'Workstations of the design offices'), tenant_create('school', 'Class rooms');

select host_create('node-' || name, ('10.20.0.' || n)::inet, place)
from (values ('amber', 11, 'Rack 3, upper half'), ('birch', 12, 'Rack 3, lower half'), ('cedar', 13, 'Rack 7'),
    ('dune', 14, 'Spare, to be moved')) h (name, n, place);

select osf_create('Office', 2048, 4096), osf_create('Office, large', 8192, 20480),
    osf_create('CAD', 16384, 51200, 'engineering'), osf_create('Class room', 1024, 512, 'school');
select di_create('Office', 'office-2026-09.tar.zst', '2026-09'), di_create('Office', 'office-2026-11.tar.zst', '2026-11'),
    di_create('Office, large', 'office-large-2026-11.tar.zst', '2026-11'),
    di_create('CAD@engineering', 'cad-14.2.tar.zst', '14.2'), di_create('Class room@school', 'class-7.tar.zst', '7');

create temporary table people (n, login, tenant, osf) as
select row_number() over (), first || '.' || last, tenant, osf
from (values ('ana', 'default', 'Office'), ('ben', 'default', 'Office'), ('carla', 'default', 'Office, large'),
        ('dario', 'engineering', 'CAD'), ('elena', 'engineering', 'CAD'), ('felix', 'school', 'Class room'),
        ('greta', 'default', 'Office'), ('hugo', 'school', 'Class room'), ('irene', 'default', 'Office')) f (first, tenant, osf),
    (values ('abbott'), ('castillo'), ('fischer'), ('moreau'), ('rossi'), ('vidal')) l (last);

select user_create(login, 'a secret', tenant) from people order by n;
select vm_create(login || '@' || tenant, case n % 5 when 4 then 'laboratory' else 'desktop' end, osf || '@' || tenant)
from people order by n;
select users_block(array(select id from users where login in ('ben.moreau', 'hugo.rossi')), true);
select vms_block(array(select v.id from vms v join users u on u.id = v.user_id where u.login = 'carla.fischer'), true);

set session_replication_role = replica;
update host_runtimes r set state = (case h.name when 'node-dune' then 'stopped' when 'node-cedar' then 'stopping' else 'running' end)::host_state,
    blocked = h.name = 'node-dune', usable_ram = 65536, usable_cpu = 16000,
    free_ram = case h.name when 'node-amber' then 31000 else 9000 end, cpu_pressure = case h.name when 'node-amber' then 0.2 else 0.93 end,
    ok_ts = now()
from hosts h where h.id = r.host_id;
update vm_runtimes r set vm_state = (case when v.n % 23 = 7 then 'starting' when v.n % 29 = 11 then 'zombie' else 'running' end)::vm_state,
    host_id = (select id from hosts where name = case v.n % 2 when 0 then 'node-amber' else 'node-birch' end),
    vm_address = v.ip, current_di_id = (select max(d.id) from dis d where d.osf_id = v.osf_id),
    vm_state_ts = now() - v.n * interval '13 minutes'
from (select id, ip, osf_id, row_number() over (order by id) as n from vms) v
where v.id = r.vm_id and v.n % 4 <> 3;
insert into user_sessions (id, vm_id, vm_name, user_id, login, tenant_id, host_id, l7r_host_id, l7r_instance, client_address,
    started_at, connected_at, ended_at, bytes_up, bytes_down, tunnel, end_reason)
select 100 + n, v.id, v.name, u.id, u.login, v.tenant_id, r.host_id, r.host_id, 1, inet '192.168.7.0' + n::integer,
    now() - n * interval '17 minutes', now() - n * interval '17 minutes', case when n % 3 = 0 then now() - n * interval '2 minutes' end,
    n * 48211, n * 5120331, 'tls', case when n % 3 = 0 then 'client' end
from (select *, row_number() over (order by id) as n from vms) v
    join users u on u.id = v.user_id join vm_runtimes r on r.vm_id = v.id and r.vm_state = 'running';
-- A busy hour, and times that end.
insert into user_sessions (id, vm_id, vm_name, user_id, login, tenant_id, host_id, l7r_host_id, l7r_instance, client_address,
    started_at, ended_at, end_reason)
select 10000 + row_number() over (), v.id, v.name, u.id, u.login, v.tenant_id, null, h.id, 1, '192.168.7.200',
    now() - m * interval '1 minute', now(), 'client'
from generate_series(0, 59) m, generate_series(1, (3 + 3 * sin(m / 7.0) + m % 5)::integer) k,
    (select min(id) as id from hosts) h, (select * from vms order by id limit 1) v join users u on u.id = v.user_id;
update vm_runtimes r set vm_expiration_soft = now() + x.n * interval '5 hours',
    vm_expiration_hard = case when x.n % 3 <> 0 then now() + x.n * interval '7 hours' end
from (select id, row_number() over (order by name, id) as n from vms) x where x.id = r.vm_id and x.n <= 14;
update vm_runtimes r set user_state = 'connected', session_id = s.id, l7r_instance = 1, l7r_host_id = r.host_id, real_user_id = s.user_id
from user_sessions s where s.vm_id = r.vm_id and s.ended_at is null;
insert into staging (place, name, size, modified, kind)
select storage_place(h.id), f.name, f.size, now() - interval '3 hours', f.kind
from (select min(id) as id from hosts) h,
    (values ('office-2026-12.tar.zst', 1873214464, 'tar'), ('lab.qcow2', 6442450944, 'qcow2')) f (name, size, kind);
insert into dis (id, osf_id, path, version) values (90001, osf_id('Office'), 'office-2026-12.tar.zst', '2026-12'),
    (90002, osf_id('Office'), 'office-2026-12-broken.tar.zst', '2026-12-b');
insert into di_runtimes (di_id, state, percentage, status_message, error_code) values (90001, 'verifying', 42, null, null),
    (90002, 'fail', 17, 'the archive ends in the middle of a file', 1);
insert into di_tags (di_id, tag, fixed) values (90001, '2026-12', true), (90002, '2026-12-b', true);
select host_recount(id) from hosts;
set session_replication_role = origin;
drop table people;
