//! See `qvd_fuzz::fuzz::authorization`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd_fuzz::fuzz::authorization(bytes));
