//! See `qvd::fuzz::head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd::fuzz::head(bytes));
