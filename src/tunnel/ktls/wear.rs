//! How much keys may encrypt. AES-GCM wears out: the more blocks one key has encrypted, the better its output can be told
//! from chance. A cipher suite says how many full records it is good for; small ones are counted by their blocks, so
//! that a day of keystrokes does not end a session. How many records the kernel makes is not asked but assumed, and
//! rather too many.

use std::ops::ControlFlow;

use rustls::SupportedCipherSuite;

/// What AES encrypts at a time, in bytes.
const BLOCK: u64 = 16;
/// What a record carries at most, in bytes.
const RECORD: u64 = 16 * 1024;
/// Of every record: its type with what fills up the block, and the mask of its tag.
const EXTRA: u64 = 2;
/// Records that one call makes besides full ones, at most: one ends with the call, and one whenever the kernel has no
/// slot for another piece of memory. It has 17 of them; a pipe holds 64 pieces.
const PARTIAL: u64 = 8;

/// What keys have encrypted so far.
#[derive(Debug)]
pub struct Wear {
    /// In blocks.
    used: u64,
    /// Of these keys.
    allowed: u64,
}

impl Wear {
    /// Keys of this suite that have encrypted so many records already.
    pub fn of(suite: SupportedCipherSuite, records: u64) -> Self {
        let limit = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        };
        let full = RECORD / BLOCK + EXTRA;
        Self { used: records.saturating_mul(full), allowed: limit.saturating_mul(full) }
    }

    /// So many bytes more were given to the kernel in one call. Breaks when these keys should encrypt no more.
    pub fn by(&mut self, bytes: usize) -> ControlFlow<()> {
        let bytes = bytes as u64;
        let records = bytes / RECORD + PARTIAL;
        self.used = self.used.saturating_add(bytes / BLOCK + records * EXTRA);
        if self.used < self.allowed { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Others have taken their place.
    pub fn renew(&mut self) {
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256};

    use super::*;

    #[test]
    fn aes_gcm_wears_out_with_its_limit_of_full_records_and_not_much_before() {
        let mut wear = Wear::of(TLS13_AES_128_GCM_SHA256, 0);
        let mut records = 0_u64;
        while wear.by(64 * RECORD as usize).is_continue() {
            records += 64;
        }
        assert!((15 << 20..=1 << 24).contains(&records), "{records}");
        wear.renew();
        assert!(wear.by(1).is_continue());
    }

    #[test]
    fn keystrokes_are_counted_and_many_more_of_them_allowed() {
        let mut wear = Wear::of(TLS13_AES_128_GCM_SHA256, 1 << 20);
        let before = wear.used;
        let _ = wear.by(64);
        let strokes = (wear.allowed - before) / (wear.used - before);
        assert!(((1 << 24)..u64::from(u32::MAX)).contains(&strokes), "{strokes}");
    }

    #[test]
    fn chacha20_does_not_wear_out() {
        let mut wear = Wear::of(TLS13_CHACHA20_POLY1305_SHA256, 0);
        assert!((0..1000).all(|_| wear.by(1 << 40).is_continue()));
    }
}
