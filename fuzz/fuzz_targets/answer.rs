//! See `qvd_fuzz::fuzz::answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qvd_fuzz::fuzz::answer(bytes));
