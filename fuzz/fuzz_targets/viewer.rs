//! See `qvd_fuzz::fuzz::viewer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd_fuzz::fuzz::viewer(bytes));
