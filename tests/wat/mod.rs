//! The web tool as a process of its own, asked as browsers and programs ask it.

mod downloads;
mod images;
mod logins;
mod metrics;
mod pages;
mod stage;
mod tenants;
mod uploads;
