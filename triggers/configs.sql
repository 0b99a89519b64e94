-- Every daemon reads its configuration again when a row changes; a value of the wrong type is refused, whoever writes.

create or replace function configs_guard() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
declare
    problem text := config_problem(new.key, new.value);
begin
    if problem is not null then
        raise exception '% = %: %', new.key, new.value, problem using errcode = 'QV014';
    elsif new.key = 'l7r.loadbalancer.plugin'
        and to_regprocedure(format('qvd.%I(integer)', 'place_' || new.value)) is null then
        raise exception '% = %: there is no function place_%(vm integer)', new.key, new.value, new.value
            using errcode = 'QV014', hint = 'default and load are there; write another in schema qvd.';
    end if;
    return new;
end $$;

create or replace trigger guard before insert or update on configs
    for each row execute function configs_guard();

create or replace function configs_wake() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    perform wake('qvd_config', 'config', null, coalesce(new.tenant_id, old.tenant_id));
    perform wake('qvd_admin', 'config', null, coalesce(new.tenant_id, old.tenant_id));
    return null;
end $$;

create or replace trigger wake after insert or update or delete on configs
    for each row execute function configs_wake();

create or replace function configs_balancer() returns trigger
language plpgsql security definer set search_path = qvd, pg_temp as $$
begin
    update balancer set (plugin, ram_weight, cpu_weight, random_weight, lapse, same_user, same_home) = (
        select
            max(value) filter (where key = 'l7r.loadbalancer.plugin'),
            max(value) filter (where key = 'l7r.loadbalancer.plugin.default.weight.ram')::float8,
            max(value) filter (where key = 'l7r.loadbalancer.plugin.default.weight.cpu')::float8,
            max(value) filter (where key = 'l7r.loadbalancer.plugin.default.weight.random')::float8,
            max(value) filter (where key = 'internal.hkd.lease.lapse')::float8 * interval '1 second',
            coalesce(lower(max(value) filter (where key = 'l7r.loadbalancer.plugin.load.same_user'))
                in ('1', 'yes', 'true', 'on'), false),
            coalesce(lower(max(value) filter (where key = 'vm.lxc.home.per.user')) in ('1', 'yes', 'true', 'on'), false)
        from settings);
    return null;
end $$;

create or replace trigger balancer after insert or update or delete on configs
    for each statement execute function configs_balancer();
create or replace trigger balancer after insert or update or delete on config_keys
    for each statement execute function configs_balancer();
-- A statement trigger also fires for no rows: the first row is written now.
update configs set value = value where false;
