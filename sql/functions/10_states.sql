-- Which state may follow which. The programs hold the same tables (src/model/state.rs); a test compares them.

create or replace function vm_transition_allowed(was vm_state, becomes vm_state) returns boolean
language sql immutable parallel safe as $$
    select was = becomes or becomes = 'stopped' or (was, becomes) in (
        ('stopped', 'starting'),
        ('starting', 'running'), ('starting', 'stopping'), ('starting', 'zombie'),
        ('running', 'stopping'), ('running', 'debugging'),
        ('debugging', 'running'), ('debugging', 'stopping'),
        ('stopping', 'zombie'))
$$;

create or replace function vm_command_allowed(state vm_state, command vm_cmd) returns boolean
language sql immutable parallel safe as $$
    select case command
        when 'start' then state = 'stopped'
        when 'stop' then state in ('starting', 'running', 'debugging')
    end
$$;

create or replace function user_transition_allowed(was user_state, becomes user_state) returns boolean
language sql immutable parallel safe as $$
    select was = becomes or becomes = 'disconnected'
        or (was, becomes) in (('disconnected', 'connecting'), ('connecting', 'connected'))
$$;

create or replace function host_transition_allowed(was host_state, becomes host_state) returns boolean
language sql immutable parallel safe as $$
    select was = becomes or becomes = 'starting' or (was, becomes) in (
        ('starting', 'running'), ('starting', 'stopping'), ('starting', 'stopped'), ('starting', 'lost'),
        ('running', 'stopping'), ('running', 'stopped'), ('running', 'lost'),
        ('stopping', 'stopped'), ('stopping', 'lost'),
        ('lost', 'stopped'))
$$;
