//! Administration for those who type it: how objects are named, chosen and changed in words. The work itself is done by
//! SQL functions, and everything that is refused is refused by them; nothing is decided here. They are reached over the database
//! itself or over the web tool (`access`).

pub mod access;
pub mod csv;
pub mod objects;
pub mod remote;
pub mod words;
