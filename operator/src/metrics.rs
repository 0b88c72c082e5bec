//! The operator's own metrics. Labels come from fixed lists: no name of a cluster or pod ever
//! becomes one.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// All metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Passes, by result `ok`, `incomplete` or `error`.
    pub passes: IntCounterVec,
    /// Duration of a pass.
    pub seconds: Histogram,
    /// Steps, by kind and result.
    pub steps: IntCounterVec,
    /// Whether this process leads.
    pub leader: IntGauge,
    /// When a pass ended well last, in seconds since 1970.
    pub last_success: IntGauge,
    /// CretoClusters, as the API server counts them.
    pub clusters: IntGauge,
    /// Errors of watches.
    pub watch_errors: IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// If two have one name, which the tests exclude.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            passes: IntCounterVec::new(
                Opts::new("creto_operator_reconcile_total", "Reconciliations by result"),
                &["result"],
            )?,
            seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "creto_operator_reconcile_seconds",
                    "Duration of a reconciliation",
                )
                .buckets(vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
            )?,
            steps: IntCounterVec::new(
                Opts::new("creto_operator_steps_total", "Steps done, by kind and result"),
                &["step", "result"],
            )?,
            leader: IntGauge::new("creto_operator_leader", "1 if this process holds the lease")?,
            last_success: IntGauge::new(
                "creto_operator_last_success_timestamp_seconds",
                "When a reconciliation ended well last",
            )?,
            clusters: IntGauge::new("creto_operator_clusters", "CretoClusters in the API server")?,
            watch_errors: IntCounter::new(
                "creto_operator_watch_errors_total",
                "Errors of watches on the API server",
            )?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.passes.clone()))?;
        metrics.registry.register(Box::new(metrics.seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.steps.clone()))?;
        metrics.registry.register(Box::new(metrics.leader.clone()))?;
        metrics.registry.register(Box::new(metrics.last_success.clone()))?;
        metrics.registry.register(Box::new(metrics.clusters.clone()))?;
        metrics.registry.register(Box::new(metrics.watch_errors.clone()))?;
        Ok(metrics)
    }

    /// As Prometheus reads them.
    ///
    /// # Errors
    /// If they do not encode.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
