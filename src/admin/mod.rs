//! Administration for those who type it: how objects are named, chosen and changed in words. The work itself is done by
//! SQL functions, and everything that is refused is refused by them; nothing is decided here.

pub mod csv;
pub mod objects;
pub mod words;
