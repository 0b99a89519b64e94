//! The web tool as a process of its own, asked as browsers and programs ask it.

mod logins;
mod pages;
mod profile;
mod roles;
mod settings;
mod stage;
mod tenants;
