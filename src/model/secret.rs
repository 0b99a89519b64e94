//! The secret that a node shares with the agent of one VM for one run of that VM.
//! It is never printed: its `Debug` says nothing.

use std::fmt;

use thiserror::Error;

/// 32 random bytes, written as 64 lower-case hexadecimal digits (header `X-QVD-VM-Secret`).
#[derive(Clone, PartialEq, Eq)]
pub struct VmSecret([u8; 32]);

/// The text is not a secret.
#[derive(Debug, Error)]
#[error("a VM secret is 64 hexadecimal digits")]
pub struct SecretError;

impl VmSecret {
    /// Wraps bytes that somebody else made random.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the hexadecimal form; white space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.trim().as_bytes();
        if text.len() != 64 {
            return Err(SecretError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| SecretError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| SecretError)?;
        }
        Ok(Self(bytes))
    }

    /// The hexadecimal form, for the header and the agent's file.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares in a time that does not depend on where the two differ.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl fmt::Debug for VmSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VmSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hexadecimal_form_reads_back() {
        let secret = VmSecret::new(std::array::from_fn(|i| i as u8 * 7));
        let again = VmSecret::parse(&format!(" {}\n", secret.to_hex())).unwrap();
        assert!(secret.matches(&again));
        assert!(!secret.matches(&VmSecret::new([0; 32])));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for text in ["", "00", &"g".repeat(64), &"0".repeat(66), &"é".repeat(32)] {
            assert!(VmSecret::parse(text).is_err(), "{text}");
        }
    }
}
