//! Who a client is. Authenticators (trait `Authenticator`, a file each) form a chain that the configuration of a tenant
//! names; `chain` leads a login or a token through it, `hooks` what a known user asks for. Logins are taken apart in
//! `login`, passwords kept in the database are checked in `password`, on the threads of `hashing`, unless too many were
//! wrong lately (`failures`).
//! What a user may do with a VM of another is said here alone. The client learns only that it was rejected; why, the log.

mod authenticator;
mod auto;
mod chain;
mod enrolment;
mod failures;
mod hashing;
mod hooks;
mod ldap;
mod local;
mod login;
mod password;
mod pool;
mod settings;
mod tester;
mod totp;

pub use authenticator::{Attempt, Authenticator, FoundTenant, Purpose, Refusal, SplitPassword, Verdict, Visit};
pub use chain::{Authenticated, Chain, Rejection};
pub use enrolment::Enrolment;
pub use failures::{FailedLogins, LoginAttempt, Rates, network};
pub use hashing::Hashing;
pub use login::{Login, LoginRules};
pub use password::{Check, PasswordKind, check, hash};
pub use totp::{Totp, decode_base32};
