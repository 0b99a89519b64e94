-- VMs have addresses of IPv4 or IPv6. Programs that know only the former stop.
alter table vms drop constraint vms_ip_check;
alter table vms add constraint vms_ip_check check (masklen(ip) = case family(ip) when 4 then 32 else 128 end);
