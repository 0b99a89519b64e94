//! See `qvd_fuzz::fuzz::proxy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd_fuzz::fuzz::proxy(bytes));
