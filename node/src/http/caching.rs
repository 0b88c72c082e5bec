//! Content negotiation, conditional requests and caching headers of port 8080.
//!
//! The rule: what executed never changes, so it may be kept for ever under its tag; every other
//! answer is not stored.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::Response,
};

/// Of what never changes.
pub(super) const FOR_EVER: HeaderValue =
    HeaderValue::from_static("public, max-age=31536000, immutable");

/// Marks every answer that says nothing of caching as not to be stored.
pub(super) async fn not_stored(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The weight that `Accept` gives to a media type, in thousandths; the most specific range counts.
fn weight(accept: &[&str], main: &str, sub: &str) -> u32 {
    let mut best = (0, 0);
    for range in accept.iter().flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let specific = match kind.split_once('/') {
            Some((m, s)) if m == main && s == sub => 3,
            Some((m, "*")) if m == main => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        let q = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .and_then(|q| q.parse::<f32>().ok())
            .filter(|q| (0.0..=1.0).contains(q))
            .unwrap_or(1.0);
        if specific > best.0 {
            best = (specific, (q * 1000.0) as u32);
        }
    }
    best.1
}

/// Whether JSON is wanted rather than bytes. Bytes are the default.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    let accept: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    weight(&accept, "application", "json") > weight(&accept, "application", "octet-stream")
}

/// Whether the client says that it has what `tag` names.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|known| known.trim())
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn json_is_given_only_to_a_client_that_prefers_it() {
        let wants = |values: &[&'static str]| wants_json(&headers(header::ACCEPT, values));
        assert!(wants(&["application/json"]));
        assert!(wants(&["text/html, application/json;q=0.5"]));
        assert!(wants(&["application/octet-stream;q=0.1", "application/json; q=0.2"]));
        assert!(wants(&["*/*;q=0.1, application/json"]));
        assert!(!wants(&[]));
        assert!(!wants(&["*/*"]));
        assert!(!wants(&["application/*"]));
        assert!(!wants(&["application/json;q=0"]));
        assert!(!wants(&["application/json, application/octet-stream"]));
        assert!(!wants(&["application/jsonx"]));
    }

    #[test]
    fn a_tag_is_known_in_any_of_its_forms() {
        let known =
            |values: &[&'static str]| is_known(&headers(header::IF_NONE_MATCH, values), "\"a\"");
        assert!(known(&["\"a\""]) && known(&["\"b\", W/\"a\""]) && known(&["*"]));
        assert!(!known(&[]) && !known(&["\"b\""]) && !known(&["a"]));
    }
}
