//! See `qvd::fuzz::proxy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd::fuzz::proxy(bytes));
