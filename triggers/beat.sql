-- Each beat goes to every node.

create or replace function beat_wake() returns trigger
language plpgsql set search_path = qvd, pg_temp as $$
begin
    perform wake('qvd_beat', 'beat', new.number);
    return null;
end $$;

create or replace trigger wake after update of number on beat
    for each row execute function beat_wake();
