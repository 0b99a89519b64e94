//! Three nodes, each in a network of its own, with real processes and containers, one database and one storage. Users work,
//! an administrator starts and stops, and something is taken from a node. What is asserted is what the machine shows and what
//! users get, over all the time, and not what the database believes.

mod daemons;
mod ipv6;
mod load;
mod nodes;
mod routed;
mod stage;
