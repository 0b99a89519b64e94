//! Requests of those who pass a user on: the User Portal, which wants to know what authentication finds out, and whoever
//! wants a token that stands for the user. How a token is checked is the business of authentication.

use base64::{Engine, prelude::BASE64_STANDARD};
use rand::{RngExt, distr::Alphanumeric};
use serde::Serialize;

use super::{
    http::{Answer, Request, Status},
    requests::{Connection, unavailable},
};

/// Some 256 bits of letters and digits.
const TOKEN_LENGTH: usize = 43;

#[derive(Serialize)]
struct Stored {
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_params_id: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<String>,
}

impl Connection {
    /// Whether the credentials are right; with `store_auth` what was found out is kept for tokens to come.
    pub(super) async fn authenticate_user(&mut self, request: &Request) -> Answer {
        let stored = async {
            let user = self.admit_for_others(request).await?;
            let wanted = request.query.get("store_auth").is_some_and(|value| !matches!(value, "" | "0"));
            let auth_params_id = if wanted {
                let kept = self.router.database.l7r_auth_parameters_keep(user.user, &user.parameters).await;
                Some(kept.map_err(unavailable)?)
            } else {
                None
            };
            answer(&Stored { auth_params_id, auth_token: None })
        };
        stored.await.unwrap_or_else(|refused| refused)
    }

    /// Makes a token, which is given away in the form in which clients present it.
    pub(super) async fn create_auth_token(&mut self, request: &Request) -> Answer {
        let created = async {
            let user = self.admit_for_others(request).await?;
            let token = random_token();
            let created = self.router.database.l7r_token_create(user.user, &token, &user.parameters).await;
            let auth_params_id = Some(created.map_err(unavailable)?);
            tracing::info!(user = %user.user, client = %self.client, "token created");
            answer(&Stored { auth_params_id, auth_token: Some(BASE64_STANDARD.encode(token)) })
        };
        created.await.unwrap_or_else(|refused| refused)
    }
}

fn answer(stored: &Stored) -> Result<Answer, Answer> {
    Answer::json(stored).map_err(|_| Status::Internal.into())
}

/// A new token.
pub fn random_token() -> String {
    random(TOKEN_LENGTH)
}

/// Letters and digits that nobody can guess.
pub fn random(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}
