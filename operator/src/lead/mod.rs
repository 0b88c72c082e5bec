//! The lease: at most one operator acts.
//!
//! The rule that it keeps: a leader stops by its own clock before another may take the lease, and
//! the lease of another counts by how long it has not changed here. The time that is written in it
//! decides nothing, because the clock that wrote it may be wrong.

use crate::names::MANAGER;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

/// How long a lease may hold without a change, whatever its holder wrote into it.
const LONGEST: Duration = Duration::from_secs(60);

/// The times of a lease.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Others may take the lease after it did not change for this long.
    pub duration: Duration,
    /// The holder stops this long after it asked for its last renewal that came through.
    pub stop_after: Duration,
    /// The holder renews it this often, and others look this often.
    pub renew_every: Duration,
    /// How long one request may take.
    pub request: Duration,
}

impl Terms {
    /// The terms that the operator uses.
    pub const OPERATOR: Self = Self {
        duration: Duration::from_secs(15),
        stop_after: Duration::from_secs(10),
        renew_every: Duration::from_secs(3),
        request: Duration::from_secs(3),
    };
}

/// Why a leader leads no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Another one holds the lease.
    #[error("another operator holds the lease")]
    Taken,
    /// The API server did not confirm a renewal in time.
    #[error("the API server confirmed no renewal of the lease in time")]
    Unconfirmed,
}

/// A lease as it was first seen in its present form.
#[derive(Clone, Debug)]
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

/// One operator that wants to lead.
#[derive(Clone, Debug)]
pub struct Candidate {
    leases: Api<Lease>,
    identity: String,
    terms: Terms,
}

impl Candidate {
    /// A candidate for the lease among `leases`, under the name `identity`.
    #[must_use]
    pub const fn new(leases: Api<Lease>, identity: String, terms: Terms) -> Self {
        Self { leases, identity, terms }
    }

    /// Waits until the lease is ours. Returns the moment from which it counts.
    pub async fn acquire(&self) -> Instant {
        let mut seen = None;
        loop {
            let asked = Instant::now();
            match timeout(self.terms.request, self.attempt(&mut seen)).await {
                Ok(Ok(true)) => return asked,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => warn!(%error, "cannot use the lease {MANAGER}; tries again"),
                Err(_) => warn!("the API server did not answer about the lease; tries again"),
            }
            sleep(self.terms.renew_every).await;
        }
    }

    /// Renews the lease, which was ours from `since`, until that fails for too long.
    pub async fn keep(&self, since: Instant) -> Lost {
        let mut renewed = since;
        loop {
            let end = renewed + self.terms.stop_after;
            sleep_until(end.min(Instant::now() + self.terms.renew_every)).await;
            let asked = Instant::now();
            match timeout_at(end.min(asked + self.terms.request), self.renew()).await {
                Ok(Ok(Some(true))) => renewed = asked,
                Ok(Ok(Some(false))) => return Lost::Taken,
                // Somebody else wrote it: the next look tells.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => warn!(%error, "the lease was not renewed; tries again"),
                Err(_) => warn!("the API server did not answer about the lease; tries again"),
            }
            if Instant::now() >= renewed + self.terms.stop_after {
                return Lost::Unconfirmed;
            }
        }
    }

    /// Gives the lease back, so that the next leader need not wait for it.
    pub async fn release(&self) {
        let give_back = async {
            let lease = self.leases.get(MANAGER).await?;
            let spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                self.write(&lease, json!({ "holderIdentity": "" })).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(self.terms.request, give_back).await {
            Ok(Ok(())) => info!("gave the lease back"),
            Ok(Err(error)) => warn!(%error, "the lease was not given back; it ends by itself"),
            Err(_) => warn!("the lease was not given back in time; it ends by itself"),
        }
    }

    /// Whether the lease with this content may be taken.
    fn free(&self, spec: &LeaseSpec, seen: &mut Option<Seen>, now: Instant) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let since = match seen {
            Some(seen) if seen.spec == *spec => seen.since,
            _ => {
                *seen = Some(Seen { spec: spec.clone(), since: now });
                return false;
            }
        };
        let written = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let theirs = Duration::from_secs(written.unwrap_or_default()).min(LONGEST);
        now.saturating_duration_since(since) >= self.terms.duration.max(theirs)
    }

    async fn attempt(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        let Some(lease) = self.leases.get_opt(MANAGER).await? else {
            return self.create().await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if !self.free(&spec, seen, Instant::now()) {
            return Ok(false);
        }
        let now = MicroTime(Timestamp::now());
        let taken = json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.terms.duration.as_secs().max(1),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": spec.lease_transitions.unwrap_or_default().saturating_add(1),
        });
        self.write(&lease, taken).await
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta { name: Some(MANAGER.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.terms.duration.as_secs().max(1)).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        let parameters =
            PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        match self.leases.create(&parameters, &lease).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the lease is ours still, and renewed; nothing if another write came first.
    async fn renew(&self) -> Result<Option<bool>, kube::Error> {
        let lease = self.leases.get(MANAGER).await?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(self.identity.as_str()) {
            return Ok(Some(false));
        }
        let renewed = json!({ "renewTime": MicroTime(Timestamp::now()) });
        Ok(self.write(&lease, renewed).await?.then_some(true))
    }

    /// Changes `lease` if nobody else did since it was read.
    async fn write(&self, lease: &Lease, spec: serde_json::Value) -> Result<bool, kube::Error> {
        let body = json!({
            "metadata": { "resourceVersion": lease.metadata.resource_version },
            "spec": spec,
        });
        let parameters =
            PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match self.leases.patch(MANAGER, &parameters, &Patch::Merge(&body)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
