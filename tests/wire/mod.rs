//! The router as its clients see it: a real `qvd node` whose hypervisor is `nothing`, a client that sees every TLS
//! record, and VMs whose agent and nxagent are played by the test. Written from the rules of the classic protocol, not
//! from our own parser.

mod besieged;
mod certificate;
mod client;
mod connect;
mod daemon;
mod elsewhere;
mod failures;
mod handover;
mod hooks;
mod ldap;
mod limits;
mod moving;
mod openssl;
mod outage;
mod passwords;
mod plain;
mod program;
mod proofs;
mod quic;
mod requests;
mod rules;
mod slapd;
mod stage;
mod strangers;
mod takeover;
mod vanish;
mod vm;
