//! See `qvd::fuzz::hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd::fuzz::hello(bytes));
