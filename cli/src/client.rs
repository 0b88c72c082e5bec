//! Port 8080 of one or more nodes, with one rule of retrying: a node that does not open a
//! connection within a second, or does not answer in time, gives way to the next one, which is sent
//! the same bytes.

use anyhow::{Context, Result, anyhow, bail};
use cretoai_control::api::{NodeStatus, Problem};
use std::{
    io::{BufRead, BufReader},
    time::{Duration, Instant},
};
use ureq::{Agent, Body, http::Response};

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a node is asked to wait for a payload's outcome, and how long its answer may take.
const WAIT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(3);
/// From one try to the next.
const PAUSE: Duration = Duration::from_millis(200);
/// How long any request but a submission is tried.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer that is read whole: a page of evidence is the largest there is.
const LARGEST: u64 = 16 << 20;
/// A stream is opened anew after so long, lest one from a node that vanished be waited on for ever.
const STREAM: Duration = Duration::from_secs(60);

/// What a payload is called, and until when it may execute. Both are part of its id.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The idempotency key, 32 hexadecimal digits.
    pub key: String,
    /// Unix milliseconds.
    pub valid_until_ms: u64,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body, if the answer is a success.
    ///
    /// # Errors
    /// The sentence of the problem document.
    pub fn success(self) -> Result<Vec<u8>> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        bail!("{}", sentence(self.status, &self.body))
    }

    /// Whether another node, or the same one later, may answer otherwise.
    const fn is_passing(&self) -> bool {
        matches!(self.status, 408 | 429 | 500..)
    }
}

fn sentence(status: u16, body: &[u8]) -> String {
    serde_json::from_slice::<Problem>(body).map_or_else(
        |_| {
            let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
            format!("the node answered {status}: {text}")
        },
        |problem| problem.sentence(),
    )
}

/// Nodes of one chain, or a Service before them.
pub struct Client {
    servers: Vec<String>,
    /// The server that is asked first: the last one that answered.
    first: usize,
    agent: Agent,
    followers: Agent,
}

fn agent(answer: Option<Duration>, body: Option<Duration>) -> Agent {
    Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_global(answer)
        .timeout_recv_body(body)
        .http_status_as_error(false)
        .user_agent(concat!("cretoai/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

impl Client {
    /// A client of these base addresses, such as `http://prod-api:8080`.
    ///
    /// # Errors
    /// There is none, or one is no HTTP address.
    pub fn new(servers: &[String]) -> Result<Self> {
        let servers: Vec<String> =
            servers.iter().map(|server| server.trim_end_matches('/').to_owned()).collect();
        if servers.is_empty() {
            bail!("no server is named; set --server or CRETO_SERVER, such as http://prod-api:8080");
        }
        for server in &servers {
            if !server.starts_with("http://") {
                bail!(
                    "--server {server} is no address of a node; it looks like http://prod-api:8080"
                );
            }
        }
        let (agent, followers) = (agent(Some(ANSWER), None), agent(None, Some(STREAM)));
        Ok(Self { servers, first: 0, agent, followers })
    }

    /// Tries a request at one server after the other until one gives an answer that will not
    /// change, or `limit` is over; then the newest failure is the error.
    fn try_all(
        &mut self,
        limit: Duration,
        request: impl Fn(&Agent, &str) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Answer> {
        let until = Instant::now() + limit;
        loop {
            let server = self.servers.get(self.first).cloned().context("no server")?;
            let answer = request(&self.agent, &server)
                .and_then(|mut response| {
                    let status = response.status().as_u16();
                    let body = response.body_mut().with_config().limit(LARGEST).read_to_vec()?;
                    Ok(Answer { status, body })
                })
                .map_err(|error| anyhow!("{server}: {error}"));
            match answer {
                Ok(answer) if !answer.is_passing() => return Ok(answer),
                answer if Instant::now() >= until => return answer,
                _ => self.first = (self.first + 1) % self.servers.len(),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// No server answers.
    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.try_all(PATIENCE, |agent, server| agent.get(format!("{server}{path}")).call())
    }

    /// Asks for a path, as JSON.
    ///
    /// # Errors
    /// No server answers.
    pub fn get_json(&mut self, path: &str) -> Result<Answer> {
        self.try_all(PATIENCE, |agent, server| {
            agent.get(format!("{server}{path}")).header("Accept", "application/json").call()
        })
    }

    /// Submits a payload, with the same name at every try, until its outcome is known or its time
    /// is over. With `wait` false it returns when a node has taken it in.
    ///
    /// # Errors
    /// No server answers.
    pub fn submit(
        &mut self,
        data: &[u8],
        topic: Option<&str>,
        naming: &Naming,
        wait: bool,
        limit: Duration,
    ) -> Result<Answer> {
        let until = Instant::now() + limit;
        let wait_ms = if wait { WAIT.as_millis() } else { 0 };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = self.try_all(left, |agent, server| {
                let request = agent
                    .post(format!("{server}/v1/payloads"))
                    .query("wait", wait_ms.to_string())
                    .header("Content-Type", "application/octet-stream")
                    .header("Idempotency-Key", &naming.key)
                    .header("Valid-Until", naming.valid_until_ms.to_string());
                match topic {
                    Some(topic) => request.query("topic", topic).send(data),
                    None => request.send(data),
                }
            })?;
            if answer.status != 202 || !wait || Instant::now() >= until {
                return Ok(answer);
            }
        }
    }

    /// The newest sequence that a server executed.
    fn sequence(&mut self) -> Result<u64> {
        let status = self.get("/v1/status")?.success()?;
        let status: NodeStatus = serde_json::from_slice(&status).context("not a status")?;
        Ok(status.sequence)
    }

    /// Follows the stream of records, and gives the data of each to `take`, until that says no. A
    /// broken stream is taken up after the last record.
    ///
    /// # Errors
    /// The stream is refused for good, or a record cannot be taken.
    pub fn follow(
        &mut self,
        from: Option<u64>,
        topic: Option<&str>,
        mut take: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        // Without a beginning, a break before the first record would leave records out.
        let mut next = match from {
            Some(from) => from,
            None => self.sequence()? + 1,
        };
        loop {
            let server = self.servers.get(self.first).cloned().context("no server")?;
            let mut request = self.followers.get(format!("{server}/v1/stream"));
            request = request.query("from", next.to_string());
            if let Some(topic) = topic {
                request = request.query("topic", topic);
            }
            let request = request.config().timeout_recv_response(Some(ANSWER)).build();
            match request.call() {
                Ok(mut response) if response.status() != 200 => {
                    let status = response.status().as_u16();
                    let body = response.body_mut().read_to_vec().unwrap_or_default();
                    let answer = Answer { status, body };
                    if !answer.is_passing() {
                        answer.success()?;
                    }
                }
                Ok(response) => {
                    let mut lines = BufReader::new(response.into_body().into_reader());
                    while let Some(event) = read_event(&mut lines) {
                        if let Some(id) = event.id {
                            next = id + 1;
                        }
                        if event.name == "record" && !take(&event.data)? {
                            return Ok(());
                        }
                    }
                }
                Err(_) => {}
            }
            self.first = (self.first + 1) % self.servers.len();
            std::thread::sleep(PAUSE);
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Event {
    id: Option<u64>,
    name: String,
    data: String,
}

/// The next event of a stream; nothing when the stream has ended or broken.
fn read_event(lines: &mut impl BufRead) -> Option<Event> {
    let mut event = Event::default();
    let mut any = false;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            if any {
                return Some(event);
            }
            continue;
        }
        let (field, value) = line.split_once(": ").unwrap_or((line, ""));
        match field {
            "id" => event.id = value.parse().ok(),
            "event" => value.clone_into(&mut event.name),
            "data" => value.clone_into(&mut event.data),
            _ => continue,
        }
        any = true;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
        sync::mpsc,
    };

    /// A server that answers each connection with the next of these texts, and reports the requests.
    fn server(answers: Vec<&'static str>) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = vec![0; 4_096];
                let mut length = socket.read(&mut request).unwrap();
                if request.starts_with(b"POST") && !request[..length].ends_with(b"hello") {
                    length += socket.read(&mut request[length..]).unwrap();
                }
                sender.send(String::from_utf8_lossy(&request[..length]).into_owned()).unwrap();
                socket.write_all(answer.as_bytes()).unwrap();
            }
        });
        (address, receiver)
    }

    const FINAL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

    fn naming() -> Naming {
        Naming { key: "0".repeat(32), valid_until_ms: 1 }
    }

    #[test]
    fn the_same_bytes_and_name_go_to_the_next_server_when_one_fails() {
        // Nobody listens at the first address.
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (busy, first) = server(vec![BUSY]);
        let (good, second) = server(vec![FINAL]);
        let mut client = Client::new(&[format!("http://{nobody}"), busy, good]).unwrap();
        let limit = Duration::from_secs(5);
        let answer = client.submit(b"hello", Some("a b"), &naming(), true, limit).unwrap();
        assert_eq!(answer.status, 200);
        let (first, second) = (first.recv().unwrap(), second.recv().unwrap());
        let after_host = |request: &str| {
            let lines = request.lines().filter(|line| !line.to_lowercase().starts_with("host"));
            lines.collect::<Vec<&str>>().join("\n")
        };
        assert_eq!(after_host(&first), after_host(&second));
        assert!(first.contains("topic=a%20b"), "{first}");
        assert!(first.ends_with("hello"), "{first}");
    }

    #[test]
    fn a_refusal_that_will_not_change_is_told_at_once() {
        let refusal =
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone";
        let (address, _requests) = server(vec![refusal]);
        let answer = Client::new(&[address]).unwrap().get("/v1/payloads/x").unwrap();
        assert_eq!(answer.status, 404);
        assert!(answer.success().unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn a_broken_stream_is_taken_up_after_the_last_record() {
        let one = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n\
                   id: 7\nevent: record\ndata: seven\n\n: alive\n\nid: 8\n\nid: 9\nevent: rec";
        let two = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n\
                   id: 9\nevent: record\ndata: nine\n\nevent: end\ndata: {}\n\n";
        let (address, requests) = server(vec![one, two]);
        let mut taken = Vec::new();
        Client::new(&[address])
            .unwrap()
            .follow(Some(7), None, |data| {
                taken.push(data.to_owned());
                Ok(taken.len() < 2)
            })
            .unwrap();
        assert_eq!(taken, ["seven", "nine"]);
        assert!(requests.recv().unwrap().starts_with("GET /v1/stream?from=7 "));
        assert!(requests.recv().unwrap().starts_with("GET /v1/stream?from=9 "));
    }

    #[test]
    fn what_is_no_address_of_a_node_is_refused() {
        assert!(Client::new(&[]).is_err());
        assert!(Client::new(&["prod-api:8080".to_owned()]).is_err());
    }
}
