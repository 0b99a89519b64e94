//! The web tool as a process of its own, asked as browsers and programs ask it.

mod acls;
mod api;
mod columns;
mod command_line;
mod described;
mod downloads;
mod images;
mod log;
mod logins;
mod metrics;
mod overview;
mod pages;
mod profile;
mod roles;
mod settings;
mod spy;
pub mod stage;
mod tenants;
mod uploads;
mod vm;
