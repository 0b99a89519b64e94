//! The log as one long answer, chosen by the fields that its page has.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    super::{
        pages::{Export, ExportError, ExportFormat, WantedLog},
        server::Wat,
        visitor::Visitor,
    },
    problem::Problem,
    take::Asked,
};

pub async fn csv(wat: State<Arc<Wat>>, visitor: Visitor, wanted: Asked<WantedLog>) -> Result<Response, Problem> {
    export(wat, visitor, wanted, ExportFormat::Csv).await
}

pub async fn json(wat: State<Arc<Wat>>, visitor: Visitor, wanted: Asked<WantedLog>) -> Result<Response, Problem> {
    export(wat, visitor, wanted, ExportFormat::Json).await
}

async fn export(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Asked(wanted): Asked<WantedLog>,
    format: ExportFormat,
) -> Result<Response, Problem> {
    let filter = wanted.filter().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Export::new(wat, visitor, filter, format).begin().await.map_err(|error| match error {
        ExportError::Forbidden => Problem::new(StatusCode::FORBIDDEN, error.to_string()),
        ExportError::List(error) => error.into(),
    })
}
