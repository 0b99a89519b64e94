//! The subset of HTTP/1.1 that QVD clients speak: several interim answers, then either a final one or a tunnel.
//! Written by hand because the clients are peculiar about line ends, spelling and TLS records; every rule that looks
//! arbitrary is there for one of them. Which requests exist and what they do is not known here.

mod answer;
mod authorization;
mod dialogue;
mod head;
mod request;

pub use answer::{Answer, Status, interim, switching};
pub use authorization::{Credentials, CredentialsError};
pub use dialogue::{Dialogue, DialogueError, Patience};
pub use head::{HeadParser, Parsed, Reject, parse};
pub use request::{Query, Request};
