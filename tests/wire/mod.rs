//! The router as its clients see it: a real `qvd node` whose hypervisor is `nothing`, a client that sees every TLS
//! record, and VMs whose agent and nxagent are played by the test. Written from the rules of the classic protocol, not
//! from our own parser.

mod certificate;
mod client;
mod connect;
mod daemon;
mod failures;
mod outage;
mod passwords;
mod program;
mod quic;
mod requests;
mod rules;
mod stage;
mod takeover;
mod vanish;
mod vm;
