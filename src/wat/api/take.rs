//! What a request brings: parameters of the address and a body, or why they cannot be used.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request, path::ErrorKind, rejection::PathRejection},
    http::{StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// A body of JSON.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let said = request.headers().get(header::CONTENT_TYPE).and_then(|said| said.to_str().ok()).unwrap_or_default();
        // A form of another site cannot say so.
        if said.split(';').next().map(str::trim) != Some("application/json") {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"));
        }
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|refused| Problem::new(refused.status(), refused.body_text()))?;
        serde_json::from_slice(&bytes).map(Self).map_err(|wrong| {
            let status = if wrong.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
            Problem::new(status, format!("the body cannot be read: {wrong}"))
        })
    }
}

/// Parameters behind the question mark.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(refused) => Err(Problem::new(StatusCode::BAD_REQUEST, refused.body_text())),
        }
    }
}

/// Parts of the path.
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(named)) => Ok(Self(named)),
            Err(PathRejection::FailedToDeserializePathParams(wrong))
                if !matches!(wrong.kind(), ErrorKind::UnsupportedType { .. }) =>
            {
                Err(Problem::missing(&wrong.body_text()))
            }
            Err(refused) => Err(Problem::new(refused.status(), refused.body_text())),
        }
    }
}
