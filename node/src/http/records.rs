//! The chain in order: a page of records, and a stream that goes on as the chain does.
//!
//! The rule: a stream holds one record at a time, and reads the next one when its reader has taken
//! it. So a slow reader is slowed and nothing is dropped; what was missed is in the store, from any
//! sequence on.

use super::{
    ApiError,
    client_api::{Api, bad_query, of, topic},
    payloads::word,
};
use crate::storage::Decided;
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cretoai_control::api::Problem;
use cretoai_serve::Caller;
use cretoai_types::{Outcome, Sequence, Topic};
use futures::stream;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Records in one page.
const PAGE: usize = 256;
/// A page ends after the record that brings it to so many payloads.
const PAGE_PAYLOADS: usize = 4_096;
/// Streams at a time, all callers together, and of one caller.
const STREAMS: usize = 128;
const STREAMS_OF_ONE: usize = 64;
/// A stream ends before its connection is closed for its age.
const STREAM_AGE: Duration = Duration::from_secs(540);
/// A stream that has nothing to say says so.
const ALIVE: Duration = Duration::from_secs(10);
/// How long a stream waits when the node cannot read or hold its next record.
const AGAIN: Duration = Duration::from_millis(100);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The paths with their documents.
pub(super) fn documented() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(follow))
}

/// Who has how many streams.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<Caller, usize>>);

/// A place among the streams, given back when it is dropped.
#[derive(Debug)]
struct Place {
    streams: Arc<Streams>,
    caller: Caller,
}

impl Streams {
    fn take(self: &Arc<Self>, caller: Caller) -> Option<Place> {
        let mut taken = crate::sync::lock(&self.0);
        let own = taken.get(&caller).copied().unwrap_or_default();
        if own >= STREAMS_OF_ONE || taken.values().sum::<usize>() >= STREAMS {
            return None;
        }
        taken.insert(caller, own + 1);
        drop(taken);
        Some(Place { streams: Arc::clone(self), caller })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = crate::sync::lock(&self.streams.0);
        match taken.get_mut(&self.caller) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.remove(&self.caller);
            }
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The first sequence; the first of all is 1, which is also the default.
    #[param(value_type = Option<u64>, minimum = 1)]
    from: Option<String>,
    /// The most records; the default and the most are 256.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 256)]
    limit: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FollowQuery {
    /// The first sequence. Without it the stream begins with what is decided next.
    #[param(value_type = Option<u64>, minimum = 1)]
    from: Option<String>,
    /// Only payloads of this topic.
    #[param(min_length = 1, max_length = 64)]
    topic: Option<String>,
}

/// What one decision ordered.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RecordView {
    /// The decision's sequence.
    sequence: u64,
    /// Its epoch.
    epoch: u64,
    /// Its chain hash, 64 hexadecimal digits.
    chain_hash: String,
    /// Its time, Unix milliseconds.
    time_ms: u64,
    /// Its payloads, in order.
    payloads: Vec<OrderedPayload>,
}

/// A payload as a decision ordered it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrderedPayload {
    /// Its position in the decision, from 0.
    index: u32,
    /// Its id, under which it can be looked up.
    id: String,
    /// Its topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// `executed`, or why it did not: `duplicate`, `expired`, `early` or `crowded`.
    outcome: &'static str,
    /// Of a duplicate: the sequence that executed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    executed_at: Option<u64>,
}

/// A page of records.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RecordPage {
    /// In order, without a gap.
    records: Vec<RecordView>,
    /// The sequence to go on from: the first that is not in this page. It may not be decided yet.
    next: u64,
}

impl RecordView {
    fn of(decided: Decided, topic: Option<&Topic>) -> Self {
        let wanted = |of: &Option<Topic>| topic.is_none() || of.as_ref() == topic;
        let leaves = decided.outcomes.into_iter().filter(|leaf| wanted(&leaf.topic));
        let payloads = leaves.map(|leaf| OrderedPayload {
            index: leaf.index,
            id: leaf.payload.to_string(),
            topic: leaf.topic.map(|topic| topic.as_str().to_owned()),
            outcome: word(leaf.outcome),
            executed_at: match leaf.outcome {
                Outcome::Duplicate { executed_at } => Some(executed_at.0),
                _ => None,
            },
        });
        Self {
            sequence: decided.sequence.0,
            epoch: decided.epoch.0,
            chain_hash: decided.chain_hash.to_string(),
            time_ms: decided.time_ms,
            payloads: payloads.collect(),
        }
    }
}

fn bad(field: &'static str, value: &str, what: &str) -> ApiError {
    let shown: String = value.chars().take(80).collect();
    let detail = format!("{field}={shown} is not {what}");
    ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", detail)
        .field(field)
        .fix(format!("send {what}, or leave it out"))
}

fn sequence(text: Option<&str>, field: &'static str) -> Result<Option<Sequence>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let parsed = text.parse().ok().filter(|sequence| (1..u64::MAX).contains(sequence));
    parsed
        .map(|sequence| Some(Sequence(sequence)))
        .ok_or_else(|| bad(field, text, "a sequence: a whole number from 1 on"))
}

/// Lists records in order.
///
/// Only what this node has executed: one node's word, and the same on all nodes. A page that is
/// shorter than its limit need not be the last one; go on from `next`.
#[utoipa::path(
    get,
    path = "/v1/records",
    tag = "records",
    params(ListQuery),
    responses(
        (status = 200, description = "At most 256 records, and where to go on", body = RecordPage),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The node failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The node is not ready or overloaded", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
    )
)]
async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
    caller: Option<Extension<Caller>>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(bad_query)?;
    let from = sequence(query.from.as_deref(), "from")?.unwrap_or(Sequence(1));
    let limit = match query.limit.as_deref() {
        None => PAGE,
        Some(text) => {
            let parsed = text.parse().ok().filter(|limit| (1..=PAGE).contains(limit));
            parsed.ok_or_else(|| bad("limit", text, "a number from 1 to 256"))?
        }
    };
    let records = api.read(move |ledger| {
        let (mut records, mut payloads, mut at) = (Vec::new(), 0, from);
        while records.len() < limit && payloads < PAGE_PAYLOADS {
            let Some(decided) = ledger.decided(at)? else { break };
            payloads += decided.outcomes.len();
            records.push(RecordView::of(decided, None));
            at = at.next();
        }
        Ok(RecordPage { records, next: at.0 })
    });
    let page = serde_json::to_vec(&records.await?)
        .map_err(|e| ApiError::internal(format!("the page: {e}")))?;
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((kind, api.held(caller, page)?).into_response())
}

/// Follows the chain: server-sent events, one for each record, in order.
///
/// Each event `record` has the sequence as its id, so that a client that reconnects with
/// `Last-Event-ID` goes on where it stopped: every record once, none left out. With `topic`, a
/// record without such a payload sends its id alone. An event `end` is the last of a stream that
/// this node ends; its data say why, and from which sequence to go on, here or at another node.
#[utoipa::path(
    get,
    path = "/v1/stream",
    tag = "records",
    params(
        FollowQuery,
        ("Last-Event-ID" = Option<u64>, Header, description = "The sequence of the last event that the client has; the stream begins after it"),
    ),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The node is not ready, or has as many streams as it may", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
    )
)]
async fn follow(
    State(api): State<Arc<Api>>,
    query: Result<Query<FollowQuery>, QueryRejection>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(bad_query)?;
    let last = headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let after = sequence(last.as_deref(), "Last-Event-ID")?.map(Sequence::next);
    let from = after.or(sequence(query.from.as_deref(), "from")?);
    let topic = query.topic.as_deref().map(topic).transpose()?;
    let newest = api.ledger()?.newest();
    let executed = *newest.borrow();
    let from = from.or(executed.map(Sequence::next));
    let from = from.ok_or_else(|| ApiError::overloaded("this node is stopping"))?;
    let place = api.streams.take(of(caller)).ok_or_else(|| {
        ApiError::overloaded("this node has as many streams as it may, of this address or of all")
    })?;
    let follower = Follower {
        api: Arc::clone(&api),
        next: from,
        topic,
        newest,
        until: Instant::now() + STREAM_AGE,
        place,
        ended: false,
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.event().await?;
        Some((Ok::<Bytes, Infallible>(event), follower))
    });
    let head = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((head, Body::from_stream(events)).into_response())
}

/// One stream.
struct Follower {
    api: Arc<Api>,
    next: Sequence,
    topic: Option<Topic>,
    newest: watch::Receiver<Option<Sequence>>,
    until: Instant,
    place: Place,
    ended: bool,
}

impl Follower {
    /// The next event, once there is one. Nothing after the last.
    async fn event(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(self.end("a stream ends after nine minutes"));
            }
            let newest = *self.newest.borrow_and_update();
            let Some(newest) = newest else {
                return Some(self.end("this node is stopping"));
            };
            if self.next <= newest {
                match self.record().await {
                    Ok(event) => return Some(event),
                    // Too much is read or held for others at the moment; nothing is left out.
                    Err(error) if error.status() == StatusCode::SERVICE_UNAVAILABLE => {
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                    Err(_) => return Some(self.end("this node cannot read its ledger")),
                }
            }
            match tokio::time::timeout(ALIVE.min(left), self.newest.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Some(self.end("this node is stopping")),
                Err(_) => return Some(Bytes::from_static(b": nothing new\n\n")),
            }
        }
    }

    async fn record(&mut self) -> Result<Bytes, ApiError> {
        let sequence = self.next;
        let decided = self.api.read(move |ledger| ledger.decided(sequence)).await?;
        let decided =
            decided.ok_or_else(|| ApiError::internal(format!("record {sequence} is missing")))?;
        let view = RecordView::of(decided, self.topic.as_ref());
        let text = if self.topic.is_some() && view.payloads.is_empty() {
            format!("id: {sequence}\n\n")
        } else {
            let json = serde_json::to_string(&view)
                .map_err(|e| ApiError::internal(format!("the record: {e}")))?;
            format!("id: {sequence}\nevent: record\ndata: {json}\n\n")
        };
        let mut charge = self.api.answering.charge(self.place.caller);
        if !charge.grow(text.len()) {
            return Err(ApiError::overloaded("too much is held for readers"));
        }
        self.next = sequence.next();
        Ok(charge.hold(text))
    }

    /// The last event. It has no id, for it is no record.
    fn end(&mut self, why: &str) -> Bytes {
        self.ended = true;
        let data = serde_json::json!({ "reason": why, "from": self.next.0 });
        Bytes::from(format!("event: end\ndata: {data}\n\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn caller(number: u8) -> Caller {
        Caller::from(IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)))
    }

    #[test]
    fn streams_are_bounded_by_caller_and_in_all_and_their_places_come_back() {
        let streams = Arc::<Streams>::default();
        let take = |number: u8, count: usize| -> Vec<Place> {
            (0..count).filter_map(|_| streams.take(caller(number))).collect()
        };
        let one = take(1, STREAMS_OF_ONE + 1);
        assert_eq!(one.len(), STREAMS_OF_ONE, "one caller has its share");
        let other = take(2, STREAMS_OF_ONE);
        assert_eq!(other.len(), STREAMS - STREAMS_OF_ONE);
        assert!(streams.take(caller(3)).is_none(), "all places are taken");
        drop(other);
        assert!(streams.take(caller(3)).is_some());
        drop(one);
        assert!(crate::sync::lock(&streams.0).is_empty(), "nothing is kept of who is gone");
    }
}
