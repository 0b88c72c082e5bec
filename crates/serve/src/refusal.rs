//! Refusals in place of a service's answer, as problem documents (RFC 9457).
//!
//! hyper answers a request that it cannot parse by itself, with an empty body; its head is replaced
//! here on its way out.

use bytes::Bytes;

fn answer(status: u16, reason: &str, code: &str, detail: &str, fix: &str, head: &str) -> Bytes {
    let body = format!(
        "{{\"type\":\"urn:cretoai:problem:{code}\",\"title\":\"{reason}\",\"status\":{status},\
         \"detail\":\"{detail}\",\"code\":\"{code}\",\"fix\":\"{fix}\"}}"
    );
    Bytes::from(format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n{head}\r\n{body}",
        body.len()
    ))
}

/// The document for a head that hyper wrote by itself; nothing if `head` is none of those.
pub(crate) fn of_parser(head: &[u8]) -> Option<Bytes> {
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (status, reason, code, detail, fix) = match status.get(..3)? {
        b"400" => (
            400,
            "Bad Request",
            "malformed",
            "the head of the request is not HTTP/1.1",
            "send a request line, header lines and an empty line, each ended by CR LF",
        ),
        b"414" => (
            414,
            "URI Too Long",
            "uri_too_long",
            "the path and query of the request are too long",
            "use one of the paths in /openapi.json",
        ),
        b"431" => (
            431,
            "Request Header Fields Too Large",
            "head_too_large",
            "the headers of the request are too large or too many",
            "send fewer and shorter headers",
        ),
        _ => return None,
    };
    Some(answer(status, reason, code, detail, fix, ""))
}

/// For a connection beyond the share of its address.
pub(crate) fn of_share() -> Bytes {
    answer(
        503,
        "Service Unavailable",
        "too_many_connections",
        "this address has as many requests at work here as it may",
        "use fewer connections, or try again after Retry-After",
        "Retry-After: 1\r\n",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_parsers_own_refusals_are_replaced() {
        for status in ["400 Bad Request", "414 URI Too Long", "431 Too Large"] {
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let text = of_parser(head.as_bytes()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(text.starts_with(&format!("HTTP/1.1 {}", &status[..3])), "{text}");
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
        }
        assert_eq!(of_parser(b"HTTP/1.1 100 Continue\r\n\r\n"), None);
        assert_eq!(of_parser(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
