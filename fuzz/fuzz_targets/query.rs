//! See `qvd::fuzz::query`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd::fuzz::query(bytes));
