//! The web tool as a process of its own, asked as browsers and programs ask it.

mod logins;
mod pages;
pub mod stage;
mod tenants;
