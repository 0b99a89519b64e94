-- The roles and the least they need. Applied last, over everything the other files made.

do $$
begin
    -- The web tool may what administrators may, in their names.
    if not pg_has_role('qvd_wat', 'qvd_administrators', 'member') then
        grant qvd_administrators to qvd_wat;
    end if;
    execute format('alter database %I set search_path = qvd, public', current_database());
    -- Compiling the expressions of a list takes longer than reading the page that is shown of it.
    execute format('alter database %I set jit = off', current_database());
    execute format('revoke all on database %I from public', current_database());
    execute format('grant connect on database %I to qvd_node, qvd_l7r, qvd_admin, qvd_readonly, qvd_administrators', current_database());
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
grant usage on schema qvd to qvd_node, qvd_l7r, qvd_admin, qvd_readonly, qvd_administrators;
revoke all on all tables in schema qvd from public, qvd_node, qvd_l7r, qvd_admin, qvd_readonly, qvd_administrators, qvd_wat;
revoke all on all sequences in schema qvd from public, qvd_node, qvd_l7r, qvd_admin, qvd_readonly, qvd_administrators, qvd_wat;
revoke all on all functions in schema qvd from public, qvd_node, qvd_l7r, qvd_admin, qvd_readonly, qvd_administrators, qvd_wat;

grant execute on function is_secret to qvd_node, qvd_l7r, qvd_admin, qvd_readonly, qvd_administrators;

-- The daemons read configuration and call their functions, nothing else.
grant select on versions, configs to qvd_node, qvd_l7r;
grant execute on function
    node_start, node_former, node_program, node_state, node_serves, node_status, node_lease, node_claim, node_vms, node_vm_state, node_adopt,
    node_storage, node_address, node_peers, node_take_over, node_routers, node_routers_gone, node_duties, node_progress, node_vm_told, node_stopping, vms_restart,
    node_images, node_staging, node_di_progress, node_di_ready, node_di_failed, node_di_removed, node_di_paths,
    node_consoles, node_console,
    epoch_is_over, beat_try, retention_apply, node_addresses, wake, wake_payload, announce, merged
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
    versions, tenants, hosts, host_runtimes, host_changes, host_counters, tunnel_counters, end_counters, osfs, dis, di_runtimes, di_tags, vms, vm_runtimes,
    vm_counters, l7r_instances, user_sessions, properties_list, qvd_object_properties_list, user_properties,
    vm_properties, host_properties, osf_properties, di_properties, configs, config_keys, log, beat,
    vm_progress, di_imports, staging, storage_reports, startable_dis,
    acls, roles, role_acls, acl_role_relations, role_role_relations, role_administrator_relations, views_setups,
    vm_fields, vm_running_fields, user_fields, user_counted_fields, session_fields, log_fields, newest_dis,
    vm_list, host_list, session_list, user_list, osf_list, di_list, tenant_list, role_list, administrator_list, config_list,
    property_list, log_list, acl_list, view_list, staging_list, tunnel_list, end_list
    to qvd_readonly, qvd_admin, qvd_administrators;
grant select (id, tenant_id, name, language, block, description, role_name) on administrators
    to qvd_readonly, qvd_admin, qvd_administrators;
grant select (id, tenant_id, login, blocked, description, language, has_password, created_at) on users to qvd_readonly, qvd_admin, qvd_administrators;
grant execute on function config_get, vm_id(text), vm_name, user_id, osf_id, di_id, tenant_id, name_and_tenant,
    vm_effective_properties, vm_why(integer), vm_why(text), vm_why_facts, di_for, vm_address_free, vm_transition_allowed, vm_command_allowed,
    user_transition_allowed, host_transition_allowed, watch
    to qvd_readonly, qvd_admin;
grant execute on function me, my_tenant, sees_all, reaches, can, list_fields, host_names, vm_mac, mac_tail, created to qvd_readonly, qvd_admin, qvd_administrators;
grant execute on function act_as, wat_administrator, wat_password_upgrade, wat_login_log, vm_spy, vm_spy_check to qvd_wat;
grant execute on function object_create, objects_update, objects_delete, object_fields, object_hold, vms_start, vms_stop, vms_disconnect, vms_expire, vms_block,
    vms_delete, users_block, users_delete, hosts_block, hosts_stop, hosts_stop_vms, dis_block, dis_publish, tenants_block,
    tenant_purge, me_update, my_tenant_update, view_set, view_columns, view_reset, vm_console_watch, vm_console
    to qvd_admin, qvd_administrators;
grant execute on function acls_of, acl_check, statistics, overview, restarts_due, cluster_status, vm_verbs to qvd_readonly, qvd_admin, qvd_administrators;
grant execute on function vm_id(text), vm_name, user_id, osf_id, di_id, tenant_id, name_and_tenant, vm_why(integer), vm_why(text),
    vm_why_facts, vm_transition_allowed, vm_command_allowed, user_transition_allowed, host_transition_allowed, watch, config_problem,
    wake, wake_payload, announce, merged
    to qvd_administrators;

grant insert, update, delete on tenants, users, hosts, osfs, dis, di_tags, vms, properties_list, qvd_object_properties_list,
    user_properties, vm_properties, host_properties, osf_properties, di_properties, configs, views_setups to qvd_admin;
grant update (blocked, vm_cmd, user_cmd, vm_expiration_soft, vm_expiration_hard) on vm_runtimes to qvd_admin, qvd_administrators;
grant update (blocked, cmd) on host_runtimes to qvd_admin, qvd_administrators;

-- By hand administrators change what is theirs, under the policies and with the ACLs that it takes. They choose no ids and no
-- addresses, so that a number that is taken tells them nothing of others.
grant update (description, blocked, language, password) on users to qvd_administrators;
grant insert (tenant_id, login, password, blocked, description, language) on users to qvd_administrators;
grant update (name, description, di_tag, keep_running) on vms to qvd_administrators;
grant update (name, memory, user_storage_size, use_overlay, cpus, description) on osfs to qvd_administrators;
grant insert (tenant_id, name, memory, user_storage_size, use_overlay, cpus, description) on osfs to qvd_administrators;
grant update (description) on dis to qvd_administrators;
grant insert (user_id, property_id, value), update (value), delete on user_properties to qvd_administrators;
grant insert (vm_id, property_id, value), update (value), delete on vm_properties to qvd_administrators;
grant insert (osf_id, property_id, value), update (value), delete on osf_properties to qvd_administrators;
grant insert (di_id, property_id, value), update (value), delete on di_properties to qvd_administrators;
grant insert (host_id, property_id, value), update (value), delete on host_properties to qvd_administrators;
grant insert (key, tenant_id, description), update (key, description), delete on properties_list to qvd_administrators;
grant insert (property_id, qvd_object), delete on qvd_object_properties_list to qvd_administrators;
grant insert, update (value), delete on configs to qvd_administrators;
grant delete on users, osfs, vms to qvd_administrators;
grant insert, update, delete on ssl_configs to qvd_admin;
grant usage on all sequences in schema qvd to qvd_admin;
grant execute on function
    tenant_create, user_create, user_password, user_totp, host_create, osf_create, di_create, di_import, di_publish, di_tag, di_untag,
    di_block, di_delete, di_retry, di_affected, di_rollout, staging_refresh, staging_log, vm_create,
    vm_start(integer), vm_start(text), vm_stop(integer), vm_stop(text), vm_expire(integer, timestamptz, timestamptz),
    vm_expire(text, timestamptz, timestamptz), host_stop, vm_disconnect(integer), vm_disconnect(text),
    vm_block, user_block, host_block, host_release, config_set, config_reset, config_problem, config_ssl,
    config_ssl_clients, config_ssl_reset, password_hash, wake, wake_payload, announce, merged
    to qvd_admin, qvd_administrators;
