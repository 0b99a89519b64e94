//! What programs ask under `/api/v1`: the same objects and verbs that pages and the command line have, as JSON, with the same
//! login, in one transaction each. Nothing is decided here; what the database refuses is a `problem`.

mod addresses;
mod collection;
mod item;
mod log;
mod openapi;
mod problem;
mod routes;
mod settings;
mod shape;
mod single;
mod take;

pub use addresses::{Addresses, Operation, object, text, truth};
pub use openapi::finish;
pub use problem::speak;
pub use routes::add;
