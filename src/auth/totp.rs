//! `TOTP`: time-based one-time passwords (RFC 6238, HMAC-SHA1), written behind the password. The secret is a property
//! of the user. Each opens the door once: the newest interval used is kept in the database, for all nodes together.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

use crate::{
    db::Database,
    model::config::{Config, keys},
};

use super::{Attempt, Authenticator, Refusal, SplitPassword, Verdict};

/// How one-time passwords are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totp {
    /// Digits, from 1 to 9.
    pub digits: u32,
    /// Length of an interval in seconds, not 0.
    pub interval: u32,
    /// Start of the first, in seconds since 1970.
    pub t0: u32,
    /// Past intervals that are accepted.
    pub leeway: u32,
    /// Future intervals that are accepted.
    pub leeway_before: u32,
}

impl Totp {
    /// From the configuration; what makes no sense is taken for the nearest that does.
    pub fn from_config(config: &Config) -> Self {
        // Every interval that is accepted is another chance to guess.
        const MOST: u32 = 100;
        Self {
            digits: config.get(&keys::TOTP_SIZE).clamp(1, 9),
            interval: config.get(&keys::TOTP_INTERVAL).max(1),
            t0: config.get(&keys::TOTP_T0),
            leeway: config.get(&keys::TOTP_LEEWAY).min(MOST),
            leeway_before: config.get(&keys::TOTP_LEEWAY_BEFORE).min(MOST),
        }
    }

    /// The interval of a moment, given since 1970.
    pub fn step(&self, at: Duration) -> u64 {
        at.as_secs().saturating_sub(u64::from(self.t0)) / u64::from(self.interval)
    }

    /// When an interval began, in seconds since 1970.
    pub fn began(&self, step: u64) -> i64 {
        let began = u64::from(self.t0).saturating_add(step.saturating_mul(u64::from(self.interval)));
        i64::try_from(began).unwrap_or(i64::MAX)
    }

    /// The one-time password of an interval.
    pub fn code(&self, secret: &[u8], step: u64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let mac = tag.as_ref();
        let offset = usize::from(mac[mac.len() - 1] & 0xf);
        let number = mac[offset..offset + 4].iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        let digits = self.digits as usize;
        format!("{:0digits$}", (number & 0x7fff_ffff) % 10u32.pow(self.digits))
    }

    /// The interval of which a one-time password is, among those accepted now.
    pub fn find(&self, secret: &[u8], token: &str, now: Duration) -> Option<u64> {
        let current = self.step(now);
        let accepted = current.saturating_sub(u64::from(self.leeway))..=current + u64::from(self.leeway_before);
        accepted.rev().find(|step| bool::from(self.code(secret, *step).as_bytes().ct_eq(token.as_bytes())))
    }

    /// Takes the last digits off a password. One that is too short has nothing in front of them.
    pub fn split(&self, password: &str) -> SplitPassword {
        let at = password.char_indices().rev().nth(self.digits as usize - 1).map_or(0, |(at, _)| at);
        SplitPassword { password: password[..at].to_owned(), token: password[at..].to_owned() }
    }
}

/// Decodes base32 (RFC 4648), in either case, with or without padding, grouped or not. `None` when it is not that.
pub fn decode_base32(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut number, mut decoded) = (0u32, 0u32, Vec::new());
    for byte in text.bytes().filter(|byte| !matches!(byte, b'=' | b' ' | b'-')) {
        let value = match byte.to_ascii_uppercase() {
            letter @ b'A'..=b'Z' => letter - b'A',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        number = (number << 5 | u32::from(value)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            decoded.push((number >> bits) as u8);
        }
    }
    Some(decoded)
}

/// Checks one-time passwords.
pub struct TotpAuthenticator {
    database: Database,
}

impl TotpAuthenticator {
    /// With the secrets in this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }
}

impl Authenticator for TotpAuthenticator {
    fn split_second_factor(&self, password: &str, config: &Config) -> Option<SplitPassword> {
        Some(Totp::from_config(config).split(password))
    }

    fn second_factor<'a>(&'a self, attempt: &'a Attempt, token: &'a str) -> Verdict<'a> {
        Box::pin(async move {
            let found = self.database.l7r_totp_secret(&attempt.login, attempt.tenant).await?;
            let (user, secret) = found.ok_or(Refusal::NoSecret)?;
            let secret = decode_base32(&secret).filter(|secret| !secret.is_empty()).ok_or(Refusal::NoSecret)?;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let totp = Totp::from_config(&attempt.config);
            let step = totp.find(&secret, token, now).ok_or(Refusal::WrongCode)?;
            if self.database.l7r_totp_use(user, totp.began(step)).await? { Ok(()) } else { Err(Refusal::UsedCode) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"12345678901234567890";

    fn totp() -> Totp {
        Totp::from_config(&Config::default())
    }

    #[test]
    fn the_vectors_of_rfc_6238_come_out() {
        let eight = Totp { digits: 8, ..totp() };
        for (at, code) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            let at = Duration::from_secs(at);
            assert_eq!(eight.code(SECRET, eight.step(at)), code);
            assert_eq!(totp().find(SECRET, &code[2..], at), Some(totp().step(at)));
        }
    }

    #[test]
    fn the_interval_before_is_accepted_and_none_to_come() {
        let now = Duration::from_secs(3000);
        let found = |step| totp().find(SECRET, &totp().code(SECRET, step), now);
        assert_eq!([98, 99, 100, 101].map(found), [None, Some(99), Some(100), None]);
        let wide = Totp { leeway: 0, leeway_before: 1, ..totp() };
        let found = |step| wide.find(SECRET, &wide.code(SECRET, step), now);
        assert_eq!([99, 100, 101, 102].map(found), [None, Some(100), Some(101), None]);
        for wrong in ["", "1", "abcdef", "0000000"] {
            assert_eq!(totp().find(SECRET, wrong, now), None);
        }
    }

    #[test]
    fn the_last_characters_are_the_token_and_a_short_password_is_no_password() {
        let split = |password: &str| {
            let split = totp().split(password);
            (split.password, split.token)
        };
        let parts = |password: &str, token: &str| (password.to_owned(), token.to_owned());
        assert_eq!(split("sesame123456"), parts("sesame", "123456"));
        assert_eq!(split("ü123456"), parts("ü", "123456"));
        assert_eq!(split("öffne dich, ß"), parts("öffne d", "ich, ß"));
        assert_eq!(split("123456"), parts("", "123456"));
        assert_eq!(split("abc"), parts("", "abc"));
        assert_eq!(split(""), parts("", ""));
    }

    #[test]
    fn base32_is_read_however_it_is_written() {
        for text in [
            "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ",
            "gezd gnbv gy3t qojq gezd gnbv gy3t qojq",
            "GEZDGNBVGY3TQOJQ-GEZDGNBVGY3TQOJQ",
        ] {
            assert_eq!(decode_base32(text).as_deref(), Some(SECRET));
        }
        assert_eq!(decode_base32("MZXW6YQ=").as_deref(), Some(&b"foob"[..]));
        assert_eq!(decode_base32("GEZ1"), None);
    }
}
