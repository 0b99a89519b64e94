//! The web administration tool: pages that show and change what is in the database, and change when it does. Each request
//! acts in the name of its administrator within one transaction; what he may see and do is decided there and nowhere here.

mod api;
mod assets;
mod door;
mod downloads;
mod guard;
mod latency;
mod live;
mod metrics;
mod pages;
mod server;
mod spy;
mod text;
mod uploads;
mod visitor;

pub use server::{Settings, run};
pub(crate) use spy::fuzz_viewer;
