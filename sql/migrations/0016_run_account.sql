-- What the trigger did is done by the one that judges.

drop trigger if exists account on vm_runtimes;
drop function if exists vm_runtimes_account();
