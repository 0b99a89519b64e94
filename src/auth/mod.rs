//! Who a client is. A login is taken apart (`login`), its account found and its password checked (`local`, `password`).
//! What an authenticated user may do is not decided here. The client learns only that it was rejected; why, the log.

mod local;
mod login;
mod password;

pub use local::{Authenticated, LocalAuthenticator, Rejection};
pub use login::{Login, LoginRules};
pub use password::{Check, PasswordKind, check, hash};
