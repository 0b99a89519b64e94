//! Who a request claims to come from. Whether the claim is true is not decided here; see `auth`.

use std::fmt;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use thiserror::Error;

use super::{Request, request::hex_digit};

/// Some clients leave the padding away.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What a client presents.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `Authorization: Basic …`
    Password {
        /// Everything before the first colon; may name a tenant.
        login: String,
        /// Everything behind it, a second factor at its end.
        password: String,
    },
    /// `Authorization: Bearer …`, decoded.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { login, .. } => write!(f, "Password({login:?}, …)"),
            Self::Token(_) => f.write_str("Token(…)"),
        }
    }
}

/// A request that presents nothing usable. Every case is answered with 401.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CredentialsError {
    /// No `Authorization` header.
    #[error("the request carries no credentials")]
    Missing,
    /// Neither `Basic` nor `Bearer`.
    #[error("the request uses an unknown kind of credentials")]
    Scheme,
    /// Not base64, not UTF-8, or without a colon.
    #[error("the credentials of the request cannot be decoded")]
    Undecodable,
}

impl Request {
    /// What the client presents as proof of who it is.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let value = self.header("Authorization").ok_or(CredentialsError::Missing)?;
        let (scheme, encoded) = value.split_once([' ', '\t']).ok_or(CredentialsError::Scheme)?;
        let decoded = decode(encoded).ok_or(CredentialsError::Undecodable);
        if scheme.eq_ignore_ascii_case("Basic") {
            let decoded = decoded?;
            let (login, password) = decoded.split_once(':').ok_or(CredentialsError::Undecodable)?;
            Ok(Credentials::Password { login: login.to_owned(), password: password.to_owned() })
        } else if scheme.eq_ignore_ascii_case("Bearer") {
            decoded.map(Credentials::Token)
        } else {
            Err(CredentialsError::Scheme)
        }
    }

    /// Further data for authenticators: headers `Auth-<name in hexadecimal>: <value in base64>`, decoded, in the
    /// order in which they were sent. What cannot be decoded is left out.
    pub fn auth_variables(&self) -> Vec<(String, String)> {
        let is_auth = |name: &str| name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Auth-"));
        let variables = self.headers().filter(|(name, _)| is_auth(name));
        variables.filter_map(|(name, value)| Some((decode_hex(&name[5..])?, decode(value)?))).collect()
    }
}

fn decode(text: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(text.trim()).ok()?).ok()
}

fn decode_hex(text: &str) -> Option<String> {
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    let bytes = text.as_bytes().chunks(2).map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?));
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    fn request(headers: &str) -> Request {
        let head = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        match parse(head.as_bytes(), 4096).unwrap() {
            Parsed::Complete { request, .. } => request,
            Parsed::Incomplete => panic!("incomplete"),
        }
    }

    #[test]
    fn a_password_may_hold_colons_and_a_login_a_tenant() {
        // alice@acme:pa:ss:é
        let read = request("Authorization: Basic YWxpY2VAYWNtZTpwYTpzczrDqQ==\r\n").credentials();
        let expected = Credentials::Password { login: "alice@acme".into(), password: "pa:ss:é".into() };
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn tokens_are_decoded_with_or_without_padding() {
        for header in ["authorization: bearer dG9rZW4x\r\n", "Authorization: Bearer  dG9rZW4x  \r\n"] {
            assert_eq!(request(header).credentials(), Ok(Credentials::Token("token1".into())));
        }
        let unpadded = request("Authorization: Bearer dG9rZW4\r\n").credentials();
        assert_eq!(unpadded, Ok(Credentials::Token("token".into())));
    }

    #[test]
    fn unusable_credentials_say_why() {
        for (headers, expected) in [
            ("", CredentialsError::Missing),
            ("Authorization: Basic\r\n", CredentialsError::Scheme),
            ("Authorization: Digest abcd\r\n", CredentialsError::Scheme),
            ("Authorization: Basic !!!!\r\n", CredentialsError::Undecodable),
            ("Authorization: Basic YWxpY2U=\r\n", CredentialsError::Undecodable),
            ("Authorization: Basic /////w==\r\n", CredentialsError::Undecodable),
        ] {
            assert_eq!(request(headers).credentials(), Err(expected), "{headers}");
        }
    }

    #[test]
    fn variables_for_authenticators_are_decoded_and_broken_ones_left_out() {
        let sent = "Auth-4c414e47: ZXNfRVM=\r\nauth-41: Qg==\r\nAuth-zz: Qg==\r\nAuth-41: ?\r\nAuth-4: Qg==\r\nAuth-: Qg==\r\n";
        let read = request(sent).auth_variables();
        assert_eq!(read, [("LANG".to_owned(), "es_ES".to_owned()), ("A".to_owned(), "B".to_owned())]);
    }

    #[test]
    fn passwords_and_tokens_are_not_shown() {
        let shown = format!("{:?}", request("Authorization: Basic YWxpY2U6c2VjcmV0\r\n").credentials().unwrap());
        assert!(!shown.contains("secret"), "{shown}");
        let shown = format!("{:?}", request("Authorization: Basic YWxpY2U6c2VjcmV0\r\n"));
        assert!(!shown.contains("YWxp"), "{shown}");
    }
}
