//! The web tool as people meet it: pages in a real browser, clicked, typed into, looked at, and heard by a screen reader.

mod accessible;
mod actions;
mod chosen;
mod desktop;
mod downloads;
mod driver;
mod hostile;
mod keyboard;
mod live;
mod many;
mod pages;
mod spy;
mod stage;
