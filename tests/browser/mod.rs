//! The web tool as people meet it: pages in a real browser, clicked, typed into, looked at, and heard by a screen reader.

mod accessible;
mod actions;
mod desktop;
mod driver;
mod hostile;
mod keyboard;
mod live;
mod many;
mod pages;
mod spy;
mod stage;
