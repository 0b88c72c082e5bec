//! The OpenAPI 3.1 document of port 8080, and Swagger UI beside it, both served by the node itself
//! so that they work without a way to the internet.
//!
//! The document is made from the handlers; `docs/openapi.json` is a copy that a test compares.

use super::{
    ApiError,
    client_api::{Api, documented},
};
use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use std::sync::Arc;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::Config;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "CretoAI node",
        description = "Submits payloads to the ledger and looks them up. 200 means executed; refusals are problem documents (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "payloads", description = "Bytes that execute at most once"),
        (name = "records", description = "The chain in order"),
        (name = "evidence", description = "Proofs that a validator broke a rule"),
        (name = "status", description = "One node's account of itself"),
    )
)]
struct Document;

/// The document as JSON with line breaks, as `docs/openapi.json` holds it.
#[must_use]
pub fn document() -> String {
    let (_, document) =
        OpenApiRouter::with_openapi(Document::openapi()).merge(documented()).split_for_parts();
    document.to_pretty_json().unwrap_or_default() + "\n"
}

/// The router with the document and Swagger UI.
pub(super) fn with_documents(paths: OpenApiRouter<Arc<Api>>) -> Router<Arc<Api>> {
    let (router, _) = paths.split_for_parts();
    let text: Arc<str> = document().into();
    // Without this the page would send the address of the document to a validator elsewhere.
    let config = Arc::new(Config::from("/openapi.json").validator_url("none"));
    let page = move |path: String| {
        let config = Arc::clone(&config);
        async move { swagger(&path, config) }
    };
    let index = page.clone();
    router
        .route(
            "/openapi.json",
            get(async move || {
                ([(header::CONTENT_TYPE, "application/json")], text.as_ref().to_owned())
            }),
        )
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(move || index(String::new())))
        .route(
            "/docs/{*file}",
            get(move |axum::extract::Path(path): axum::extract::Path<String>| page(path)),
        )
}

fn swagger(path: &str, config: Arc<Config<'static>>) -> Response {
    match utoipa_swagger_ui::serve(path, config) {
        Ok(Some(file)) => {
            let kind = HeaderValue::from_str(&file.content_type);
            let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
            ([(header::CONTENT_TYPE, kind)], file.bytes.into_owned()).into_response()
        }
        Ok(None) => ApiError::new(StatusCode::NOT_FOUND, "no_such_path", "there is no such page")
            .fix("open /docs/")
            .into_response(),
        Err(error) => ApiError::internal(format!("Swagger UI: {error}")).into_response(),
    }
}
