//! Password hashes: argon2id (ours), bcrypt (what SQL can make) and the salted SHA-256 of classic QVD.
//! Checking is slow on purpose; callers run it on the threads of `hashing`.

use std::cell::RefCell;

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::{self, PasswordHasher, phc::PasswordHash},
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// How a stored hash was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordKind {
    /// argon2id with our parameters or stronger.
    Argon2id,
    /// argon2id with weaker parameters.
    WeakArgon2,
    /// bcrypt.
    Bcrypt,
    /// base64 of SHA-256 over salt and password.
    Classic,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Another password.
    Wrong,
    /// The right one.
    Right(PasswordKind),
    /// The stored text is no hash that we know.
    Unknown,
}

/// Checks a password against a stored hash. `salt` is that of classic digests. An empty password is always wrong.
pub fn check(stored: &str, password: &str, salt: &str) -> Check {
    if password.is_empty() {
        return Check::Wrong;
    }
    if stored.starts_with("$argon2") {
        let Ok(parsed) = PasswordHash::new(stored) else { return Check::Unknown };
        let kind = match Params::try_from(&parsed) {
            Ok(params)
                if stored.starts_with("$argon2id$") && params.m_cost() >= MEMORY_KIB && params.t_cost() >= PASSES =>
            {
                PasswordKind::Argon2id
            }
            Ok(_) => PasswordKind::WeakArgon2,
            Err(_) => return Check::Unknown,
        };
        if is_made_from(&parsed, password).unwrap_or(false) { Check::Right(kind) } else { Check::Wrong }
    } else if stored.starts_with("$2") {
        match bcrypt::verify(password, stored) {
            Ok(true) => Check::Right(PasswordKind::Bcrypt),
            Ok(false) => Check::Wrong,
            Err(_) => Check::Unknown,
        }
    } else if stored.len() == 43 {
        let digest = STANDARD_NO_PAD.encode(Sha256::new().chain_update(salt).chain_update(password).finalize());
        if bool::from(digest.as_bytes().ct_eq(stored.as_bytes())) {
            Check::Right(PasswordKind::Classic)
        } else {
            Check::Wrong
        }
    } else {
        Check::Unknown
    }
}

thread_local! {
    /// What this thread made its last hash in. Pages that are new to a process cost a sixth of the time of a hash.
    static SPACE: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Gives back the memory that checks of this thread use.
pub(super) fn give_space_back() {
    SPACE.take();
}

/// Whether a hash of the argon2 family is that of a password.
fn is_made_from(stored: &PasswordHash, password: &str) -> Result<bool, password_hash::Error> {
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else { return Ok(false) };
    let params = Params::try_from(stored)?;
    let version = stored.version.map(Version::try_from).transpose()?.unwrap_or_default();
    let argon2 = Argon2::new(Algorithm::try_from(stored.algorithm.as_str())?, version, params);
    let mut made = vec![0; expected.len()];
    SPACE.with_borrow_mut(|space| {
        let blocks = argon2.params().block_count();
        if space.len() < blocks {
            space.resize(blocks, Block::default());
        }
        argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut made, &mut space[..blocks])
    })?;
    Ok(made.ct_eq(expected.as_ref()).into())
}

/// Hashes a password with argon2id and a random salt, as a PHC string.
pub fn hash(password: &str) -> Result<String, password_hash::Error> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|_| password_hash::Error::ParamsInvalid)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    Ok(argon2.hash_password(password.as_bytes())?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_hash_verifies_and_is_never_weaker_than_promised() {
        let stored = hash("wonderland").unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert_eq!(check(&stored, "wonderland", ""), Check::Right(PasswordKind::Argon2id));
        assert_eq!(check(&stored, "Wonderland", ""), Check::Wrong);
    }

    #[test]
    fn classic_digests_verify_with_their_salt() {
        let stored = "kxs9c0f0qnWnPdxubiX2KlCpe/fLcvOkeDqnar/NdKc";
        assert_eq!(check(stored, "superadmin", "qvd1234"), Check::Right(PasswordKind::Classic));
        assert_eq!(check(stored, "superadmin", "other"), Check::Wrong);
        let stored = "5gdTjBVViDLKyfCyWme65LnIKLIOZ/JYmKL1RvxS+v8";
        assert_eq!(check(stored, "admin", "qvd1234"), Check::Right(PasswordKind::Classic));
    }

    #[test]
    fn bcrypt_verifies() {
        let stored = bcrypt::hash("wonderland", 4).unwrap();
        assert_eq!(check(&stored, "wonderland", ""), Check::Right(PasswordKind::Bcrypt));
        assert_eq!(check(&stored, "x", ""), Check::Wrong);
    }

    #[test]
    fn an_empty_password_and_an_unknown_hash_open_nothing() {
        let empty = STANDARD_NO_PAD.encode(Sha256::digest("qvd1234"));
        assert_eq!(check(&empty, "", "qvd1234"), Check::Wrong);
        assert_eq!(check("plain", "plain", ""), Check::Unknown);
        assert_eq!(check("$argon2id$nonsense", "x", ""), Check::Unknown);
    }
}
