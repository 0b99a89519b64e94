//! Stored passwords become stronger when their owners log in.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use super::stage::{authorization, calm};

const STRONG: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

#[tokio::test]
async fn a_password_becomes_argon2id_at_the_first_login_and_stays_the_same() {
    let stage = calm().await;
    let digest = BASE64_STANDARD_NO_PAD.encode(Sha256::digest("qvd1234wonderland"));
    for (login, made) in [
        ("bcrypt", "select user_create('bcrypt', 'wonderland')".to_owned()),
        ("classic", format!("insert into users (tenant_id, login, password) values (1, 'classic', '{digest}')")),
    ] {
        stage.sql(&made).await;
        let stored = format!("select password from users where login = '{login}'");
        let before = stage.sql(&stored).await;
        assert!(!before.starts_with(STRONG), "{before}");
        let list = |password: &str| {
            let request = format!("GET /qvd/list_of_vm HTTP/1.1\r\n{}\r\n", authorization(login, password));
            async { stage.client().await.ask(request).await.status }
        };
        assert_eq!(list("Wonderland").await, 401);
        assert_eq!(stage.sql(&stored).await, before, "a wrong password has changed the stored one");
        assert_eq!(list("wonderland").await, 200);
        stage.until(&format!("select starts_with(password, '{STRONG}') from users where login = '{login}'"), "t").await;
        assert_eq!((list("wonderland").await, list("Wonderland").await), (200, 401));
        // A new password is again one that SQL can make.
        stage.sql(&format!("select user_password('{login}', 'looking glass')")).await;
        assert_eq!((list("looking glass").await, list("wonderland").await), (200, 401));
    }
}
