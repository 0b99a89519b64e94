//! Who a client is. Authenticators (trait `Authenticator`, a file each) form a chain that the configuration of a tenant
//! names; `chain` leads a login or a token through it. Logins are taken apart in `login`, passwords kept in the
//! database are checked in `password`, on the threads of `hashing`.
//! What an authenticated user may do is not decided here. The client learns only that it was rejected; why, the log.

mod authenticator;
mod auto;
mod chain;
mod hashing;
mod ldap;
mod local;
mod login;
mod password;
mod settings;
mod totp;

pub use authenticator::{Attempt, Authenticator, FoundTenant, Refusal, SplitPassword, Verdict};
pub use chain::{Authenticated, Chain, Rejection};
pub use hashing::Hashing;
pub use login::{Login, LoginRules};
pub use password::{Check, PasswordKind, check, hash};
pub use totp::{Totp, decode_base32};
