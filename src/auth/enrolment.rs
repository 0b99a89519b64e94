//! A new secret for one-time passwords, and how an app on somebody's telephone is told of it.

use std::fmt::Write as _;

use rand::RngExt;

/// As many bytes as the hash has, which is what RFC 4226 recommends.
const SECRET: usize = 20;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A secret that was just made. Who has it makes the user's one-time passwords.
pub struct Enrolment {
    secret: String,
}

impl Enrolment {
    /// A secret that nobody can guess.
    pub fn random() -> Self {
        let mut bytes = [0; SECRET];
        rand::rng().fill(&mut bytes);
        Self { secret: encode_base32(&bytes) }
    }

    /// In base32.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The address that apps read, of an account at an issuer. What an app takes for granted anyway is left out.
    pub fn uri(&self, issuer: &str, account: &str, digits: u32, interval: u32) -> String {
        let (issuer, account) = (escape(issuer), escape(account));
        let mut uri = format!("otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}", self.secret);
        if digits != 6 {
            let _ = write!(uri, "&digits={}", digits);
        }
        if interval != 30 {
            let _ = write!(uri, "&period={}", interval);
        }
        uri
    }
}

/// Encodes as base32 (RFC 4648) without padding.
fn encode_base32(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for chunk in bytes.chunks(5) {
        let number =
            chunk.iter().enumerate().fold(0u64, |number, (at, byte)| number | u64::from(*byte) << (32 - 8 * at));
        let letters = (chunk.len() * 8).div_ceil(5);
        encoded.extend((0..letters).map(|at| char::from(ALPHABET[(number >> (35 - 5 * at) & 31) as usize])));
    }
    encoded
}

fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            escaped.push(byte.into());
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::decode_base32;

    #[test]
    fn what_is_encoded_is_what_is_decoded() {
        assert_eq!(encode_base32(b"12345678901234567890"), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(encode_base32(b"foob"), "MZXW6YQ");
        for length in 0..12 {
            let bytes: Vec<u8> = (0..length).map(|byte: u8| byte.wrapping_mul(37)).collect();
            assert_eq!(decode_base32(&encode_base32(&bytes)), Some(bytes));
        }
        let (one, other) = (Enrolment::random(), Enrolment::random());
        assert!(one.secret().len() == 32 && one.secret() != other.secret());
    }

    #[test]
    fn an_app_is_told_whose_it_is_and_what_is_unusual() {
        let made = Enrolment { secret: "ABC".to_owned() };
        assert_eq!(
            made.uri("Example School", "zoë@a:b", 6, 30),
            "otpauth://totp/Example%20School:zo%C3%AB@a%3Ab?secret=ABC&issuer=Example%20School"
        );
        assert!(made.uri("q", "a", 8, 60).ends_with("&issuer=q&digits=8&period=60"));
    }
}
