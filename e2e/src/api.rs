//! A client of a node's port 8080 and 9090, plain HTTP. One connection, kept alive, made again when
//! it is gone.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use cretoai_control::api::{NodeStatus, Problem};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// Port of the API for clients.
pub const API_PORT: u16 = 8080;
/// Port of metrics.
pub const METRICS_PORT: u16 = 9090;
/// The only content type that a payload has.
pub const OCTETS: &str = "application/octet-stream";

/// How long a connection may take to open. A pod that vanished sends no reset, so its address would
/// otherwise keep a client for a minute.
const CONNECT: Duration = Duration::from_secs(1);
/// How long one try of [`submit_again_and_again`] asks the node to wait, and how long it takes in all.
const WAIT: Duration = Duration::from_millis(600);
const TRY: Duration = Duration::from_millis(800);

/// What the API says of a payload.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Its id, 64 hex digits.
    pub id: String,
    /// `final` or `pending`.
    pub status: String,
    /// What the chain says of it.
    pub outcome: Option<String>,
    /// The decision that ordered it.
    pub sequence: Option<u64>,
    /// Its place in that decision.
    pub index: Option<u32>,
    /// The chain hash of that decision.
    pub chain_hash: Option<String>,
}

impl Receipt {
    /// Whether it took effect, for good.
    pub fn is_final(&self) -> bool {
        self.status == "final" && self.outcome.as_deref() == Some("executed")
    }
}

/// A payload as one node returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Sequence, index and chain hash, as the headers say.
    pub place: (u64, u32, String),
    /// The bytes.
    pub data: Bytes,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The sentence of an error, or the body's beginning.
    pub fn message(&self) -> String {
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => problem.sentence(),
            Err(_) => String::from_utf8_lossy(&self.body).chars().take(200).collect(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The receipt of a payload that was taken in.
    ///
    /// # Errors
    /// It was not, or what came back is no receipt.
    pub fn receipt(&self) -> Result<Receipt> {
        if !self.status.is_success() {
            bail!("the node answered {}: {}", self.status, self.message());
        }
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not a receipt: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Submits a payload until it is final: each try has a new connection and a short time, and sends the
/// same bytes, which name the same payload, so that no try can execute it twice. `again` is told why a
/// try was given up.
///
/// # Errors
/// The payload is not final within `limit`; the error is that of the last try.
pub async fn submit_again_and_again(
    address: SocketAddr,
    data: &Bytes,
    limit: Duration,
    mut again: impl FnMut(&anyhow::Error),
) -> Result<Receipt> {
    let began = Instant::now();
    loop {
        let mut client = Client::new(address).with_limit(TRY);
        let error = match client.submit(data.clone(), WAIT).await {
            Ok(receipt) => return Ok(receipt),
            Err(error) => error,
        };
        if began.elapsed() >= limit {
            return Err(error.context(format!("not final within {} s", limit.as_secs())));
        }
        again(&error);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One connection to one address.
pub struct Client {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
    limit: Duration,
}

impl Client {
    /// A client of `address`; connects at the first call.
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, sender: None, limit: Duration::from_secs(65) }
    }

    /// The same with another limit for a whole call.
    pub const fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let connecting = timeout(CONNECT, TcpStream::connect(self.address));
            let stream = connecting
                .await
                .with_context(|| format!("no connection to {} within 1 s", self.address))?
                .with_context(|| format!("no connection to {}", self.address))?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(async move {
                // How a connection ends is told by the request that was on it.
                if connection.await.is_err() {}
            });
            self.sender = Some(sender);
        }
        self.sender.as_mut().context("no connection")
    }

    /// One request.
    ///
    /// # Errors
    /// No answer came, or not in time.
    pub async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let (limit, address) = (self.limit, self.address);
        let exchange = async {
            let sender = self.connection().await?;
            let response = sender
                .send_request(request)
                .await
                .with_context(|| format!("{address} gave no answer"))?;
            collect(response).await
        };
        match timeout(limit, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.sender = None;
                Err(error)
            }
            Err(_) => {
                self.sender = None;
                bail!("{address} did not answer within {:.1} s", limit.as_secs_f64())
            }
        }
    }

    /// A request with a path and a body.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request =
            Request::builder().method(method).uri(path).header(HOST, self.address.to_string());
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        Ok(request.body(Full::new(body))?)
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        let request = self.request(Method::GET, path, None, Bytes::new())?;
        self.call(request).await
    }

    /// Submits a payload and waits for its outcome at most `wait`.
    ///
    /// # Errors
    /// No answer.
    pub async fn post(&mut self, data: Bytes, wait: Duration) -> Result<Answer> {
        let request = self.request(
            Method::POST,
            &format!("/v1/payloads?wait={}", wait.as_millis()),
            Some(OCTETS),
            data,
        )?;
        self.call(request).await
    }

    /// Submits a payload and demands that it becomes final within `wait`.
    ///
    /// # Errors
    /// It was refused, or is not final in time.
    pub async fn submit(&mut self, data: Bytes, wait: Duration) -> Result<Receipt> {
        let receipt = self.post(data, wait).await?.receipt()?;
        if !receipt.is_final() {
            bail!(
                "payload {} is not final after {} ms: status {}, outcome {:?}",
                receipt.id,
                wait.as_millis(),
                receipt.status,
                receipt.outcome
            );
        }
        Ok(receipt)
    }

    /// What the node has of payload `id`: nothing, if it is unknown or pending.
    ///
    /// # Errors
    /// No answer, or one without sense.
    pub async fn read(&mut self, id: &str) -> Result<Option<Stored>> {
        let mut request =
            self.request(Method::GET, &format!("/v1/payloads/{id}"), None, Bytes::new())?;
        request.headers_mut().insert(ACCEPT, hyper::header::HeaderValue::from_static(OCTETS));
        let answer = self.call(request).await?;
        if answer.status == StatusCode::NOT_FOUND || answer.status == StatusCode::ACCEPTED {
            return Ok(None);
        }
        if answer.status != StatusCode::OK {
            bail!("reading {id} from {}: {} {}", self.address, answer.status, answer.message());
        }
        let place = || {
            let sequence = answer.header("x-creto-sequence")?.parse().ok()?;
            Some((
                sequence,
                answer.header("x-creto-index")?.parse().ok()?,
                answer.header("x-creto-chain-hash")?.to_owned(),
            ))
        };
        Ok(place().map(|place| Stored { place, data: answer.body.clone() }))
    }

    /// The node's account of itself.
    ///
    /// # Errors
    /// No answer, or one without sense.
    pub async fn status(&mut self) -> Result<NodeStatus> {
        let answer = self.get("/v1/status").await?;
        if !answer.status.is_success() {
            bail!("{} answered {}: {}", self.address, answer.status, answer.message());
        }
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("not a status: {}", String::from_utf8_lossy(&answer.body)))
    }
}

async fn collect(response: hyper::Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    })
}

/// The sum of all series of a metric whose labels contain `label`.
pub fn metric(text: &str, name: &str, label: &str) -> f64 {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let ours = labels.is_empty() || labels.starts_with('{');
        (ours && labels.contains(label)).then(|| value.parse::<f64>().ok())?
    });
    series.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "# HELP a b\na 1\na_total 7\nrefused{port=\"9000\",reason=\"x\"} 2\nrefused{port=\"9000\",reason=\"y\"} 3\nrefused{port=\"9001\",reason=\"x\"} 4\n";
        assert_eq!(metric(text, "a", ""), 1.0);
        assert_eq!(metric(text, "refused", "port=\"9000\""), 5.0);
        assert_eq!(metric(text, "refused", ""), 9.0);
        assert_eq!(metric(text, "none", ""), 0.0);
    }

    #[test]
    fn only_what_took_effect_is_final() {
        let receipt = |status: &str, outcome: Option<&str>| Receipt {
            id: String::new(),
            status: status.into(),
            outcome: outcome.map(Into::into),
            sequence: None,
            index: None,
            chain_hash: None,
        };
        assert!(receipt("final", Some("executed")).is_final());
        assert!(!receipt("final", Some("expired")).is_final());
        assert!(!receipt("pending", None).is_final());
    }
}
