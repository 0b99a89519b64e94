-- Older programs go on.
-- Whose turn it is among nodes that are as good. A number that is given to one transaction is gone for all others at once.

create sequence placements cycle;
