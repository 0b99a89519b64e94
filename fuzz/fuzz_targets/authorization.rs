//! See `qvd::fuzz::authorization`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd::fuzz::authorization(bytes));
