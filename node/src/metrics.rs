//! What a node counts, under the names of the specification.
//!
//! The rule: no label that an outsider can grow. Peers are members (at most 31 at a time, ids given
//! by the admin); reasons, types and classes are fixed words.

use crate::{
    sync::{lock, unix_ms},
    transport::is_guest,
    version::VERSION,
};
use cretoai_consensus::engine::Sizes;
use cretoai_types::{Member, NodeId};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::{sync::Mutex, time::Duration};

/// All counters of a node. Their fields are public: whoever sees the event counts it.
pub struct Metrics {
    registry: Registry,
    /// Vertices that a decision ordered.
    pub vertices_finalized: IntCounter,
    /// Vertices written to the database.
    pub vertices_stored: IntCounter,
    /// Vertices read from the database.
    pub vertices_read: IntCounter,
    /// Links between vertices written to the database.
    pub edges_stored: IntCounter,
    /// Seconds from a payload's arrival at this node to its outcome.
    pub finality_time: Histogram,
    byzantine_violations: IntCounterVec,
    evidence: IntCounterVec,
    reputation: IntGaugeVec,
    /// QUIC connections to and from members.
    pub quic_connections: IntGauge,
    /// Connections refused, by `port` and `reason`; see [`Metrics::refused`].
    pub refused_connections: IntCounterVec,
    /// The newest executed sequence.
    pub sequence: IntGauge,
    /// The epoch.
    pub epoch: IntGauge,
    /// The view that was entered last.
    pub view: IntGauge,
    /// 1 if that view has begun.
    pub view_active: IntGauge,
    /// Views that this node entered.
    pub view_changes: IntCounter,
    /// The stable checkpoint.
    pub stable_sequence: IntGauge,
    /// This node's clock less the median of the members', in seconds.
    pub clock_offset: Gauge,
    /// What the engine holds.
    pub sizes: SizeMetrics,
    /// Members heard of lately, this node included.
    pub quorum_participating: IntGauge,
    /// Seconds of one fsynced batch.
    pub rocksdb_write: Histogram,
    /// Payloads that the API took in.
    pub payloads_accepted: IntCounter,
    /// Payloads with a final outcome that were taken in here.
    pub payloads_finalized: IntCounter,
    /// Payloads that the API refused, for whatever reason.
    pub payloads_refused: IntCounter,
    /// Bytes of payloads taken in here and not yet final.
    pub pending_payload_bytes: IntGauge,
    /// Frames not sent because a queue was full or the peer away, by `class`.
    pub dropped_frames: IntCounterVec,
    /// Bytes of frames given to QUIC, by `class`.
    pub sent_bytes: IntCounterVec,
    /// Bytes of frames that came from members.
    pub received_bytes: IntCounter,
    peers: PeerMetrics,
    /// Members that this node believes able to vote, itself included.
    pub quorum_voters: IntGauge,
    /// Votes that a decision needs.
    pub quorum_required: IntGauge,
    /// 1 while the node is a caught-up validator with a quorum.
    pub ready: IntGauge,
    /// Seconds for which the engine's thread has not finished a turn.
    pub engine_stalled: Gauge,
    /// Events that wait for the engine.
    pub event_queue_length: IntGauge,
    /// Seconds of one turn of the engine, writing and sending included.
    pub turn: Histogram,
    /// Fetches of peers that were not served, by `reason`.
    pub dropped_fetches: IntCounterVec,
    /// Bytes that the file system of the database has left.
    pub storage_free_bytes: IntGauge,
    /// Bytes below which payloads are refused.
    pub storage_reserve_bytes: IntGauge,
    /// Bytes of RocksDB's tables.
    pub rocksdb_size_bytes: IntGauge,
    /// Bytes that compactions have still to rewrite.
    pub rocksdb_pending_compaction_bytes: IntGauge,
    /// Compactions that run.
    pub rocksdb_running_compactions: IntGauge,
    log_lines_dropped: IntCounter,
    process: ProcessMetrics,
}

/// Why a metric could not be set up: a name that is there twice or malformed, which only a change
/// of this file can cause.
pub type MetricsError = prometheus::Error;

/// Finality and round trips: 1 ms to 10 s, fine around the bars of 50, 250 and 500 ms.
const SECONDS: &[f64] = &[
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25,
    0.35, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0,
];
/// One fsync: 100 us to 1 s, fine around the bar of 10 ms.
const WRITE_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1,
    0.25, 1.0,
];

impl Metrics {
    /// A registry with everything at zero.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let r = &registry;
        let build = labelled_gauge(
            r,
            "cretoai_build_info",
            "1, with the version of this node",
            &["version"],
        )?;
        build.with_label_values(&[VERSION]).set(1);
        Ok(Self {
            vertices_finalized: counter(
                r,
                "cretoai_vertices_finalized_total",
                "Vertices that a decision ordered",
            )?,
            vertices_stored: counter(
                r,
                "cretoai_vertices_stored_total",
                "Vertices written to the database",
            )?,
            vertices_read: counter(
                r,
                "cretoai_vertices_read_total",
                "Vertices read from the database",
            )?,
            edges_stored: counter(
                r,
                "cretoai_edges_stored_total",
                "Links between vertices written to the database",
            )?,
            finality_time: histogram(
                r,
                "cretoai_finality_time_seconds",
                "From a payload's arrival to its outcome",
                SECONDS,
            )?,
            byzantine_violations: labelled(
                r,
                "cretoai_byzantine_violations_total",
                "Rules that a peer broke on its channel; proven ones are in cretoai_evidence_total",
                &["node_id", "type"],
            )?,
            quic_connections: gauge(
                r,
                "cretoai_quic_connections",
                "QUIC connections to and from members",
            )?,
            refused_connections: labelled(
                r,
                "cretoai_refused_connections_total",
                "Connections refused",
                &["port", "reason"],
            )?,
            sequence: gauge(r, "cretoai_sequence", "The newest executed sequence")?,
            epoch: gauge(r, "cretoai_epoch", "The epoch")?,
            view: gauge(r, "cretoai_view", "The view that was entered last")?,
            view_active: gauge(
                r,
                "cretoai_view_active",
                "1 if the current view has begun, 0 while a change of the leader goes on",
            )?,
            view_changes: counter(r, "cretoai_view_changes_total", "Views that this node entered")?,
            stable_sequence: gauge(
                r,
                "cretoai_stable_sequence",
                "The sequence of the stable checkpoint",
            )?,
            clock_offset: float(
                r,
                "cretoai_clock_offset_seconds",
                "This clock less the median of the members' clocks",
            )?,
            sizes: SizeMetrics::new(r)?,
            evidence: labelled(
                r,
                "cretoai_evidence_total",
                "Evidence in the chain that counted",
                &["node_id", "type"],
            )?,
            reputation: labelled_gauge(
                r,
                "cretoai_reputation",
                "10 without a violation, one less for each that is proven",
                &["node_id"],
            )?,
            quorum_participating: gauge(
                r,
                "cretoai_quorum_participating",
                "Members heard of lately, this node included",
            )?,
            rocksdb_write: histogram(
                r,
                "cretoai_rocksdb_write_seconds",
                "One fsynced batch",
                WRITE_SECONDS,
            )?,
            payloads_accepted: counter(
                r,
                "cretoai_payloads_accepted_total",
                "Payloads that the API took in",
            )?,
            payloads_finalized: counter(
                r,
                "cretoai_payloads_finalized_total",
                "Payloads taken in here that have an outcome",
            )?,
            payloads_refused: counter(
                r,
                "cretoai_payloads_refused_total",
                "Payloads that the API refused",
            )?,
            pending_payload_bytes: gauge(
                r,
                "cretoai_pending_payload_bytes",
                "Bytes taken in here and not yet final",
            )?,
            dropped_frames: labelled(
                r,
                "cretoai_dropped_frames_total",
                "Frames not sent: queue full or peer away",
                &["class"],
            )?,
            sent_bytes: labelled(
                r,
                "cretoai_sent_frame_bytes_total",
                "Bytes of frames given to QUIC",
                &["class"],
            )?,
            received_bytes: counter(
                r,
                "cretoai_received_frame_bytes_total",
                "Bytes of frames that came from members",
            )?,
            peers: PeerMetrics::new(r)?,
            quorum_voters: gauge(
                r,
                "cretoai_quorum_voters",
                "Members heard of lately that may vote and are not banned, this node included",
            )?,
            quorum_required: gauge(r, "cretoai_quorum_required", "Votes that a decision needs")?,
            ready: gauge(
                r,
                "cretoai_ready",
                "1 while this node is a caught-up validator with a quorum",
            )?,
            engine_stalled: float(
                r,
                "cretoai_engine_stalled_seconds",
                "For how long the engine has not finished a turn",
            )?,
            event_queue_length: gauge(
                r,
                "cretoai_event_queue_length",
                "Events that wait for the engine",
            )?,
            turn: histogram(
                r,
                "cretoai_turn_seconds",
                "One turn of the engine with events, its writes and sends included",
                SECONDS,
            )?,
            dropped_fetches: labelled(
                r,
                "cretoai_dropped_fetches_total",
                "Fetches of peers that were not served",
                &["reason"],
            )?,
            storage_free_bytes: gauge(
                r,
                "cretoai_storage_free_bytes",
                "Bytes that the file system of the database has left",
            )?,
            storage_reserve_bytes: gauge(
                r,
                "cretoai_storage_reserve_bytes",
                "Free bytes below which payloads are refused (storage.reserve_mb)",
            )?,
            rocksdb_size_bytes: gauge(
                r,
                "cretoai_rocksdb_size_bytes",
                "Bytes of the database's tables",
            )?,
            rocksdb_pending_compaction_bytes: gauge(
                r,
                "cretoai_rocksdb_pending_compaction_bytes",
                "Bytes that compactions have still to rewrite, as RocksDB estimates",
            )?,
            rocksdb_running_compactions: gauge(
                r,
                "cretoai_rocksdb_running_compactions",
                "Compactions that run",
            )?,
            process: ProcessMetrics::new(r)?,
            log_lines_dropped: counter(
                r,
                "cretoai_log_lines_dropped_total",
                "Lines of the log that were dropped because nobody took them",
            )?,
            registry,
        })
    }

    /// Counts a refused connection. `reason` is a fixed word of the code, never text from outside.
    pub fn refused(&self, port: Port, reason: &'static str) {
        self.refused_connections.with_label_values(&[port.label(), reason]).inc();
    }

    /// Counts a rule that a peer broke. Not all of these are proven: a signature that does not
    /// verify is nobody's.
    pub fn violation(&self, node: NodeId, kind: &'static str) {
        self.byzantine_violations.with_label_values(&[&label(node), kind]).inc();
    }

    /// Counts evidence that the chain counted.
    pub fn evidence(&self, accused: NodeId, kind: &'static str) {
        self.evidence.with_label_values(&[&label(accused), kind]).inc();
    }

    /// Shows the reputation of the members, and of nobody else.
    pub fn show_reputation(&self, members: impl Iterator<Item = (NodeId, u32)>) {
        self.reputation.reset();
        for (id, reputation) in members {
            self.reputation.with_label_values(&[&label(id)]).set(i64::from(reputation));
        }
    }

    /// Shows who the members are, and forgets the series of those who left.
    pub fn show_members(&self, members: &[Member]) {
        self.peers.show(members);
    }

    /// Bytes of frames that went to a peer.
    pub fn sent_to(&self, peer: NodeId, bytes: u64) {
        self.peers.sent.with_label_values(&[&label(peer)]).inc_by(bytes);
    }

    /// Bytes of a frame that came from a peer.
    pub fn received_from(&self, peer: NodeId, bytes: u64) {
        self.received_bytes.inc_by(bytes);
        self.peers.received.with_label_values(&[&label(peer)]).inc_by(bytes);
    }

    /// The smoothed round-trip time to a member.
    pub fn round_trip(&self, member: NodeId, time: Duration) {
        self.peers.rtt.with_label_values(&[&label(member)]).set(time.as_secs_f64());
    }

    /// The text that Prometheus reads.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn render(&self) -> Result<Vec<u8>, MetricsError> {
        self.process.read();
        let dropped = crate::logging::dropped();
        let told = self.log_lines_dropped.get();
        self.log_lines_dropped.inc_by(dropped.saturating_sub(told));
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// The label of a node: guests have no id that would last.
fn label(node: NodeId) -> String {
    if is_guest(node) { "guest".to_owned() } else { node.0.to_string() }
}

/// What is counted for each member. `node_id` joins all of these; `cretoai_member_info` says the
/// name.
struct PeerMetrics {
    info: IntGaugeVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    rtt: GaugeVec,
    shown: Mutex<Vec<NodeId>>,
}

impl PeerMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let rtt = GaugeVec::new(
            Opts::new("cretoai_quic_rtt_seconds", "Round-trip time to a member"),
            &["node_id"],
        )?;
        registry.register(Box::new(rtt.clone()))?;
        Ok(Self {
            info: labelled_gauge(
                registry,
                "cretoai_member_info",
                "1 for each member of the epoch, with its name",
                &["node_id", "name"],
            )?,
            sent: labelled(
                registry,
                "cretoai_peer_sent_bytes_total",
                "Bytes of frames given to QUIC for a peer",
                &["node_id"],
            )?,
            received: labelled(
                registry,
                "cretoai_peer_received_bytes_total",
                "Bytes of frames that came from a peer",
                &["node_id"],
            )?,
            rtt,
            shown: Mutex::default(),
        })
    }

    fn show(&self, members: &[Member]) {
        self.info.reset();
        for member in members {
            self.info.with_label_values(&[&label(member.id), &member.name]).set(1);
        }
        let now: Vec<NodeId> = members.iter().map(|member| member.id).collect();
        let mut shown = lock(&self.shown);
        for gone in shown.iter().filter(|id| !now.contains(id)).map(|id| label(*id)) {
            // A series that was never there cannot be removed, which is as good.
            drop(self.sent.remove_label_values(&[&gone]));
            drop(self.received.remove_label_values(&[&gone]));
            drop(self.rtt.remove_label_values(&[&gone]));
        }
        *shown = now;
    }
}

/// What the system says of this process, under the usual names.
struct ProcessMetrics {
    resident_memory: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
}

impl ProcessMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let start = float(
            registry,
            "process_start_time_seconds",
            "When this process started, Unix seconds",
        )?;
        start.set(unix_ms() as f64 / 1000.0);
        Ok(Self {
            resident_memory: gauge(
                registry,
                "process_resident_memory_bytes",
                "Resident memory of this process",
            )?,
            open_fds: gauge(registry, "process_open_fds", "Files that this process has open")?,
            max_fds: gauge(registry, "process_max_fds", "Files that this process may have open")?,
        })
    }

    fn read(&self) {
        if let Some(bytes) = resident_memory() {
            self.resident_memory.set(bytes);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // The folder itself is open while it is read.
            self.open_fds.set(open.count() as i64 - 1);
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        self.max_fds.set(limit.current.map_or(i64::MAX, |most| most as i64));
    }
}

/// How much the engine holds, each with its bound (n members; see `docs/protocol.md`, bounds).
pub struct SizeMetrics([IntGauge; 7]);

impl SizeMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let size =
            |name: &str, help: &str| gauge(registry, &format!("cretoai_engine_{name}"), help);
        Ok(Self([
            size(
                "pool_bytes",
                "Bytes of payloads that wait to be sealed; at most 16 MiB, more after an epoch's end",
            )?,
            size(
                "undecided_vertices",
                "Undecided vertices; at most 256 per lane, and what a cut names",
            )?,
            size(
                "other_vertices",
                "Vertices that wait for parents, or of named branches; at most 256 per lane, and what a cut names",
            )?,
            size(
                "recent_payloads",
                "Executed payloads that are still valid; at most recent_payloads of the genesis, and those of lanes that went",
            )?,
            size(
                "waiting_items",
                "Evidence and reconfigurations that wait to be sealed; at most 64",
            )?,
            size(
                "learnt_records",
                "Records that wait for their data while catching up; at most 64",
            )?,
            size("votes", "Votes of the next two sequences; at most 6 n")?,
        ]))
    }

    /// Shows what an engine holds.
    pub fn show(&self, sizes: &Sizes) {
        let Sizes {
            pool_bytes,
            undecided_vertices,
            other_vertices,
            recent_payloads,
            waiting_items,
            learnt_records,
            votes,
        } = *sizes;
        let values = [
            pool_bytes,
            undecided_vertices,
            other_vertices,
            recent_payloads,
            waiting_items,
            learnt_records,
            votes,
        ];
        for (gauge, value) in self.0.iter().zip(values) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

/// The ports that refuse connections, by their numbers in the documentation (whatever the
/// configuration says).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 9000: operator and gateway.
    Control,
    /// 9001: validators.
    Quic,
    /// 8080: clients.
    Client,
    /// 9090: metrics and probes.
    Metrics,
}

impl Port {
    const fn label(self) -> &'static str {
        match self {
            Self::Control => "9000",
            Self::Quic => "9001",
            Self::Client => "8080",
            Self::Metrics => "9090",
        }
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
    let metric = IntCounter::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn labelled(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
    let metric = IntGauge::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn float(registry: &Registry, name: &str, help: &str) -> Result<Gauge, MetricsError> {
    let metric = Gauge::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn labelled_gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, MetricsError> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, MetricsError> {
    let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// `VmRSS` of `/proc/self/status`, in bytes.
fn resident_memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_names_of_the_specification_are_served_from_the_start_or_from_the_first_event() {
        let metrics = Metrics::new().unwrap();
        metrics.refused(Port::Quic, "unknown_key");
        metrics.violation(NodeId(3), "equivocation");
        metrics.evidence(NodeId(2), "vertex_fork");
        metrics.show_reputation([(NodeId(2), 9)].into_iter());
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for name in [
            "cretoai_vertices_finalized_total 0",
            "cretoai_finality_time_seconds_bucket",
            "cretoai_byzantine_violations_total{node_id=\"3\",type=\"equivocation\"} 1",
            "cretoai_vertices_stored_total 0",
            "cretoai_vertices_read_total 0",
            "cretoai_quic_connections 0",
            "cretoai_refused_connections_total{port=\"9001\",reason=\"unknown_key\"} 1",
            "cretoai_sequence 0",
            "cretoai_view 0",
            "cretoai_epoch 0",
            "cretoai_view_active 0",
            "cretoai_view_changes_total 0",
            "cretoai_stable_sequence 0",
            "cretoai_clock_offset_seconds 0",
            "cretoai_evidence_total{node_id=\"2\",type=\"vertex_fork\"} 1",
            "cretoai_reputation{node_id=\"2\"} 9",
            "cretoai_engine_votes 0",
            "cretoai_quorum_participating 0",
            "cretoai_rocksdb_write_seconds_bucket",
            "cretoai_payloads_accepted_total 0",
            "cretoai_payloads_finalized_total 0",
            "cretoai_payloads_refused_total 0",
            "cretoai_pending_payload_bytes 0",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
        assert!(resident_memory().unwrap() > 1 << 20);
    }

    #[test]
    fn the_series_of_a_member_go_with_it() {
        let metrics = Metrics::new().unwrap();
        let member = |id: u32| Member {
            id: NodeId(id),
            name: format!("node-{id}"),
            key: cretoai_control::keys::SecretKey::from_seed(&[id as u8; 32])
                .unwrap()
                .public_key()
                .clone(),
            since: cretoai_types::Epoch(0),
        };
        metrics.show_members(&[member(1), member(2)]);
        for id in [1, 2] {
            metrics.sent_to(NodeId(id), 5);
            metrics.received_from(NodeId(id), 7);
            metrics.round_trip(NodeId(id), Duration::from_millis(3));
        }
        metrics.show_members(&[member(2), member(3)]);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(!text.contains("node_id=\"1\""), "{text}");
        for line in [
            "cretoai_member_info{name=\"node-3\",node_id=\"3\"} 1",
            "cretoai_peer_sent_bytes_total{node_id=\"2\"} 5",
            "cretoai_peer_received_bytes_total{node_id=\"2\"} 7",
            "cretoai_quic_rtt_seconds{node_id=\"2\"} 0.003",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
