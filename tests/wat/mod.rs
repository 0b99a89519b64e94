//! The web tool as a process of its own, asked as browsers and programs ask it.

mod acls;
mod api;
mod command_line;
mod described;
mod downloads;
mod images;
mod logins;
mod metrics;
mod pages;
mod profile;
mod roles;
mod settings;
pub mod stage;
mod tenants;
mod uploads;
mod vm;
