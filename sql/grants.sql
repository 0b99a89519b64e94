-- The roles and the least they need. Applied last, over everything the other files made.

do $$
declare
    wanted text;
begin
    foreach wanted in array array['qvd_node', 'qvd_l7r', 'qvd_admin', 'qvd_readonly'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I login', wanted);
            exception when duplicate_object or unique_violation then
                null; -- another database of this server was being set up at the same moment
            end;
        end if;
    end loop;
    execute format('alter database %I set search_path = qvd, public', current_database());
    execute format('revoke all on database %I from public', current_database());
    execute format('grant connect on database %I to qvd_node, qvd_l7r, qvd_admin, qvd_readonly', current_database());
end $$;

-- What PostgreSQL lets everybody do and nobody needs here: run code, and fill the disk with large objects.
do $$
begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        revoke usage on language plpgsql from public;
        grant usage on language plpgsql to qvd_admin;
        revoke execute on function lo_creat, lo_create, lo_from_bytea from public;
    end if;
end $$;

revoke all on schema qvd from public;
grant usage on schema qvd to qvd_node, qvd_l7r, qvd_admin, qvd_readonly;
revoke all on all tables in schema qvd from public, qvd_node, qvd_l7r, qvd_admin, qvd_readonly;
revoke all on all sequences in schema qvd from public, qvd_node, qvd_l7r, qvd_admin, qvd_readonly;
revoke all on all functions in schema qvd from public, qvd_node, qvd_l7r, qvd_admin, qvd_readonly;

-- Who may read a table may not read the secrets in it; that is for the owner's functions, and for the router, which logs in
-- to directories. Nor may they be changed but by functions, because what is changed could be read by its new name.
alter table configs enable row level security;
drop policy if exists no_secrets on configs;
create policy no_secrets on configs for select to qvd_node, qvd_admin, qvd_readonly using (not is_secret(key));
drop policy if exists all_of_it on configs;
create policy all_of_it on configs for select to qvd_l7r using (true);
drop policy if exists adding on configs;
create policy adding on configs for insert to qvd_admin with check (true);
drop policy if exists changing on configs;
create policy changing on configs for update to qvd_admin using (not is_secret(key));
drop policy if exists removing on configs;
create policy removing on configs for delete to qvd_admin using (true);

alter table user_properties enable row level security;
drop policy if exists no_secrets on user_properties;
create policy no_secrets on user_properties for select to qvd_admin, qvd_readonly
    using (property_id not in (
        select o.id from qvd_object_properties_list o join properties_list l on l.id = o.property_id where is_secret(l.key)));
drop policy if exists adding on user_properties;
create policy adding on user_properties for insert to qvd_admin with check (true);
drop policy if exists changing on user_properties;
create policy changing on user_properties for update to qvd_admin
    using (property_id not in (
        select o.id from qvd_object_properties_list o join properties_list l on l.id = o.property_id where is_secret(l.key)))
    with check (true);
drop policy if exists removing on user_properties;
create policy removing on user_properties for delete to qvd_admin using (true);
grant execute on function is_secret to qvd_node, qvd_l7r, qvd_admin, qvd_readonly;

-- The daemons read configuration and call their functions, nothing else.
grant select on versions, configs to qvd_node, qvd_l7r;
grant execute on function
    node_start, node_former, node_program, node_state, node_serves, node_status, node_lease, node_claim, node_vms, node_vm_state, node_adopt,
    node_storage, node_address, node_peers, node_take_over, node_routers, node_routers_gone, node_duties, node_progress, node_vm_told, node_stopping, vms_restart,
    node_images, node_staging, node_di_progress, node_di_ready, node_di_failed, node_di_removed, node_di_paths,
    epoch_is_over, beat_try, retention_apply, node_addresses, wake, wake_payload, announce
    to qvd_node;
grant execute on function
    l7r_start, l7r_instances_of, l7r_gone, l7r_host, l7r_user, l7r_password_upgrade, l7r_list, l7r_vm, l7r_acquire,
    l7r_session, l7r_vm_start, l7r_vm_stop, l7r_connected, l7r_way, l7r_aborted, l7r_sessions, l7r_end, l7r_session_end, l7r_traffic,
    l7r_count, l7r_count_refused, l7r_count_sessions, l7r_problem, l7r_ssl, l7r_auth_parameters_keep, l7r_token_create,
    l7r_tenant, l7r_token_use, l7r_auto, l7r_totp_secret, l7r_totp_use, l7r_pool_find, l7r_pool_take, l7r_pool_has,
    l7r_listens, l7r_nodes, l7r_road, l7r_passage
    to qvd_l7r;

-- Nobody reads what could be used to become somebody: password hashes, tokens, keys, the VMs' secrets.
grant select on
    versions, tenants, hosts, host_runtimes, host_counters, tunnel_counters, end_counters, osfs, dis, di_runtimes, di_tags, vms, vm_runtimes,
    vm_counters, l7r_instances, user_sessions, properties_list, qvd_object_properties_list, user_properties,
    vm_properties, host_properties, osf_properties, di_properties, configs, config_keys, log, beat,
    vm_progress, di_imports, staging, storage_reports,
    vm_list, host_list, session_list, user_list, di_list, staging_list, tunnel_list, end_list
    to qvd_readonly, qvd_admin;
grant select (id, tenant_id, login, blocked, description, language) on users to qvd_readonly, qvd_admin;
grant execute on function config_get, vm_id(text), vm_name, user_id, osf_id, di_id, tenant_id, name_and_tenant,
    vm_effective_properties, vm_why(integer), vm_why(text), vm_why_facts, di_for, vm_address_free, vm_transition_allowed, vm_command_allowed,
    user_transition_allowed, host_transition_allowed, watch
    to qvd_readonly, qvd_admin;

grant insert, delete on tenants, users, hosts, osfs, dis, di_tags, vms, properties_list, qvd_object_properties_list,
    user_properties, vm_properties, host_properties, osf_properties, di_properties, configs to qvd_admin;
grant update on tenants, users, hosts, osfs, dis, di_tags, vms, properties_list, qvd_object_properties_list,
    user_properties, vm_properties, host_properties, osf_properties, di_properties, configs to qvd_admin;
grant update (blocked, vm_cmd, user_cmd, vm_expiration_soft, vm_expiration_hard) on vm_runtimes to qvd_admin;
grant update (blocked, cmd) on host_runtimes to qvd_admin;
grant insert, update, delete on ssl_configs to qvd_admin;
grant usage on all sequences in schema qvd to qvd_admin;
grant execute on function
    tenant_create, user_create, user_password, user_totp, host_create, osf_create, di_create, di_import, di_publish, di_tag, di_untag,
    di_block, di_delete, staging_refresh, vm_create,
    vm_start(integer), vm_start(text), vm_stop(integer), vm_stop(text), vm_expire(integer, timestamptz, timestamptz),
    vm_expire(text, timestamptz, timestamptz), host_stop, vm_disconnect(integer), vm_disconnect(text),
    vm_block, user_block, host_block, host_release, config_set, config_reset, config_problem, config_ssl,
    config_ssl_clients, config_ssl_reset, password_hash, wake, wake_payload, announce
    to qvd_admin;
