//! A world without Kubernetes: objects, volumes, pods and nodes in memory, moved by the plan's own
//! steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::{
    cluster::{
        plan::{Part, Plan, Removal, Step, plan},
        validate::{Cluster, Settings},
        view::{AdminKey, Attested, GenesisFound, Pod, Report, View, Volume},
    },
    names::ADMITTED,
    resources::{self, Key, Kind},
};
use cretoai_control::{
    api::{NodeStatus, PeerStatus, RecentRecord, Role},
    keys::{MlDsa87, SecretKey},
};
use cretoai_crds::{CretoCluster, CretoClusterSpec};
use cretoai_types::{Genesis, Hash, SignedGenesis};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// How long a tick lasts.
pub(crate) const TICK_MS: u64 = 5_000;

pub(crate) fn settings() -> Settings {
    Settings {
        node_image: "localhost/cretoai-node:1".into(),
        operator_namespace: "creto-system".into(),
    }
}

pub(crate) fn resource(spec: Value) -> CretoCluster {
    let spec: CretoClusterSpec = serde_json::from_value(spec).unwrap();
    let mut resource = CretoCluster::new("prod", spec);
    resource.metadata.namespace = Some("apps".into());
    resource.metadata.uid = Some("uid-1".into());
    resource.metadata.generation = Some(1);
    resource
}

pub(crate) fn cluster(spec: Value) -> Cluster {
    Cluster::new(&resource(spec)).unwrap()
}

/// A node's account: its chain hashes are `family-sequence`.
pub(crate) fn report(name: &str, sequence: u64, family: &str) -> NodeStatus {
    let hash = |sequence: u64| format!("{family}-{sequence}");
    let recent = (sequence.saturating_sub(63).max(1)..=sequence)
        .map(|sequence| RecentRecord { sequence, chain_hash: hash(sequence) });
    NodeStatus {
        name: name.into(),
        node_id: Some(0),
        key_fingerprint: String::new(),
        role: Role::Validator,
        chain_id: None,
        epoch: 0,
        view: 0,
        active: true,
        want: 0,
        leader: Some("prod-0".into()),
        sequence,
        chain_hash: hash(sequence),
        time_ms: 0,
        stable: 0,
        quorum: None,
        members: Vec::new(),
        suspected: Vec::new(),
        peers: (0..31).map(|ordinal| peer(&format!("prod-{ordinal}"), sequence)).collect(),
        recent: recent.collect(),
        finality_p99_ms: None,
        version: "0.1.0".into(),
        ready: true,
        waiting_for: String::new(),
    }
}

/// A member as a node hears it that is connected to it.
pub(crate) fn peer(name: &str, sequence: u64) -> PeerStatus {
    PeerStatus { name: name.into(), connected: true, sequence, last_seen_ms: Some(100) }
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32]).unwrap()
}

/// What is on a volume.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) cluster_uid: Option<String>,
    pub(crate) key: SecretKey,
    pub(crate) chain: Option<String>,
    pub(crate) sequence: u64,
    /// Whether it goes with the CretoCluster.
    pub(crate) owned: bool,
}

/// A pod, as it really is.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) uid: String,
    pub(crate) revision: String,
    pub(crate) up: bool,
    /// Whether the operator reaches it.
    pub(crate) reachable: bool,
    /// Whether its peers hear it.
    pub(crate) isolated: bool,
    /// Ticks until it is up.
    pub(crate) starting: u32,
    /// When it was made.
    pub(crate) made_ms: u64,
    /// Since when the kubelet calls it ready.
    pub(crate) ready_since_ms: Option<u64>,
    /// How often its container was started again.
    pub(crate) restarts: u32,
    /// Ticks until it is gone, once it is being deleted; it answers and votes until then.
    pub(crate) leaving: Option<u32>,
}

/// Everything outside the operator.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) resource: CretoCluster,
    pub(crate) admin: Option<(SecretKey, Option<String>, bool)>,
    pub(crate) genesis: Option<(Arc<SignedGenesis>, bool)>,
    pub(crate) live: BTreeMap<Key, Value>,
    pub(crate) disks: BTreeMap<usize, Disk>,
    pub(crate) pods: BTreeMap<usize, Running>,
    pub(crate) births: u32,
    /// The time.
    pub(crate) now_ms: u64,
    counter: u64,
}

impl World {
    pub(crate) fn new(spec: Value) -> Self {
        Self {
            resource: resource(spec),
            admin: None,
            genesis: None,
            live: BTreeMap::new(),
            disks: BTreeMap::new(),
            pods: BTreeMap::new(),
            births: 0,
            now_ms: 1_800_000_000_000,
            counter: 0,
        }
    }

    /// A world whose chain is born and whose nodes all take part.
    pub(crate) fn alive(replicas: usize) -> Self {
        let mut world = Self::new(json!({ "replicas": replicas }));
        world.settle(60);
        assert!(
            world.genesis.is_some() && world.participating() == replicas,
            "the world must come alive"
        );
        world.remember();
        world
    }

    /// Writes what the operator would have written into the status.
    pub(crate) fn remember(&mut self) {
        let view = self.view();
        let plan = plan(&view, &settings(), self.now_ms);
        let now = self.now();
        self.resource.status = Some(crate::cluster::status::derive(&view.cluster, &plan, &[], now));
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(i64::try_from(self.now_ms).unwrap()).unwrap()
    }

    fn fresh(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn stateful_set(&self) -> Option<&Value> {
        self.live.get(&Key { kind: Kind::StatefulSet, name: "prod".into() })
    }

    fn revision(&self) -> Option<String> {
        let template = self.stateful_set()?.pointer("/spec/template")?;
        Some(Hash::of_bytes(template.to_string().as_bytes()).to_string().chars().take(10).collect())
    }

    /// Voters that nobody is about to end.
    pub(crate) fn staying(&self) -> usize {
        self.voters().iter().filter(|ordinal| self.pods[ordinal].leaving.is_none()).count()
    }

    /// Nodes that really vote.
    pub(crate) fn voters(&self) -> Vec<usize> {
        let votes =
            |ordinal: &usize| self.disks.get(ordinal).is_some_and(|disk| disk.chain.is_some());
        self.pods
            .iter()
            .filter(|(ordinal, pod)| pod.up && !pod.isolated && votes(ordinal))
            .map(|(ordinal, _)| *ordinal)
            .collect()
    }

    pub(crate) fn participating(&self) -> usize {
        self.voters().len()
    }

    /// Controllers, kubelets and nodes do a little of their work.
    pub(crate) fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let Some(set) = self.stateful_set().cloned() else { return };
        let replicas =
            usize::try_from(set.pointer("/spec/replicas").unwrap().as_u64().unwrap()).unwrap();
        let uid = set
            .pointer("/spec/volumeClaimTemplates/0/metadata/labels/cretoai.io~1cluster-uid")
            .unwrap()
            .as_str()
            .unwrap()
            .to_string();
        let revision = self.revision().unwrap();
        for ordinal in 0..replicas {
            if !self.disks.contains_key(&ordinal) {
                let seed = u8::try_from(100 + self.fresh() % 150).unwrap();
                self.disks.insert(
                    ordinal,
                    Disk {
                        cluster_uid: Some(uid.clone()),
                        key: key(seed),
                        chain: None,
                        sequence: 0,
                        owned: false,
                    },
                );
            }
            if !self.pods.contains_key(&ordinal) {
                let uid = format!("pod-{}", self.fresh());
                self.pods.insert(
                    ordinal,
                    Running {
                        uid,
                        revision: revision.clone(),
                        up: false,
                        reachable: true,
                        isolated: false,
                        starting: 2,
                        leaving: None,
                        made_ms: self.now_ms,
                        ready_since_ms: None,
                        restarts: 0,
                    },
                );
            }
        }
        self.pods.retain(|ordinal, pod| *ordinal < replicas && pod.leaving != Some(0));
        for pod in self.pods.values_mut() {
            pod.leaving = pod.leaving.map(|ticks| ticks.saturating_sub(1));
            if pod.starting > 0 {
                pod.starting -= 1;
                pod.up = pod.starting == 0;
            }
        }
        let quorum = cretoai_types::Quorum::new(replicas, cretoai_types::FaultModel::Byzantine);
        let voters = self.voters();
        if voters.len() >= quorum.q {
            let next = self.disks.values().map(|disk| disk.sequence).max().unwrap_or(0) + 1;
            for ordinal in &voters {
                self.disks.get_mut(ordinal).unwrap().sequence = next;
            }
        }
        for (ordinal, pod) in &mut self.pods {
            let ready = voters.len() >= quorum.q && voters.contains(ordinal);
            pod.ready_since_ms = ready.then(|| pod.ready_since_ms.unwrap_or(self.now_ms));
        }
    }

    pub(crate) fn view(&self) -> View {
        let cluster = Cluster::new(&self.resource).unwrap();
        let revision = self.revision();
        let voters = self.voters();
        let enough = voters.len() >= cluster.quorum().q;
        let mut live = self.live.clone();
        for object in live.values_mut() {
            object["metadata"]["uid"] = json!("set-1");
            object["metadata"]["generation"] = json!(1);
            object["status"] = json!({ "observedGeneration": 1, "updateRevision": revision });
        }
        let volumes = self.disks.iter().map(|(ordinal, disk)| {
            let name = cluster.names.volume(*ordinal);
            (
                *ordinal,
                Volume {
                    name,
                    cluster_uid: disk.cluster_uid.clone(),
                    size: "10Gi".into(),
                    owned: disk.owned,
                    departing: false,
                },
            )
        });
        let pods = self.pods.iter().map(|(ordinal, pod)| {
            let pod = Pod {
                name: cluster.names.pod(*ordinal),
                uid: pod.uid.clone(),
                ip: Some([10, 0, 0, u8::try_from(*ordinal).unwrap()].into()),
                revision: Some(pod.revision.clone()),
                running: pod.up,
                ready: pod.up && enough && voters.contains(ordinal),
                leaving: pod.leaving.is_some(),
                leaving_ms: pod.leaving.map(|_| self.now_ms),
                trouble: None,
                made_ms: Some(pod.made_ms),
                ready_since_ms: pod.ready_since_ms,
                restarts: pod.restarts,
                host: Some(format!("host-{ordinal}")),
            };
            (*ordinal, pod)
        });
        let mut reports = BTreeMap::new();
        for (ordinal, pod) in self.pods.iter().filter(|_| self.admin.is_some()) {
            let (name, Some(disk)) = (cluster.names.pod(*ordinal), self.disks.get(ordinal)) else {
                continue;
            };
            let answer = if !pod.up || !pod.reachable {
                Report::Silent("connection refused".into())
            } else if let Some((genesis, _)) = &self.genesis {
                let Some(member) = genesis.genesis.members.get(*ordinal) else { continue };
                if member.key == *disk.key.public_key() {
                    let mut status = report(&name, disk.sequence, "h");
                    status.chain_id.clone_from(&disk.chain);
                    status.role =
                        if disk.chain.is_some() { Role::Validator } else { Role::Waiting };
                    status.ready = enough && voters.contains(ordinal);
                    let hears = |name: &str| {
                        !pod.isolated && voters.iter().any(|at| cluster.names.pod(*at) == name)
                    };
                    for peer in &mut status.peers {
                        peer.connected = hears(&peer.name);
                    }
                    Report::Status(Box::new(status))
                } else {
                    Report::Refused("another key".into())
                }
            } else {
                let uid = disk.cluster_uid.clone().unwrap_or_default();
                Report::Attested(Attested {
                    key: disk.key.public_key().clone(),
                    possession: disk.key.sign(&Genesis::possession_message(&uid, &name)),
                    chain_id: disk.chain.clone(),
                    version: "0.1.0".into(),
                })
            };
            reports.insert(*ordinal, answer);
        }
        View {
            admin_key: self.admin.as_ref().map_or(AdminKey::Missing, |(key, made_for, owned)| {
                AdminKey::Present {
                    key: key.public_key().clone(),
                    made_for: made_for.clone(),
                    owned: *owned,
                }
            }),
            genesis: self.genesis.as_ref().map_or(GenesisFound::Missing, |(genesis, owned)| {
                GenesisFound::Present { genesis: Arc::clone(genesis), owned: *owned }
            }),
            volumes: volumes.collect(),
            live,
            pods: pods.collect(),
            pods_refused: None,
            reports,
            cluster,
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        plan(&self.view(), &settings(), self.now_ms)
    }

    /// What the API server and the nodes do with a step.
    pub(crate) fn take(&mut self, step: &Step) {
        match step {
            Step::CreateAdminKey => {
                if self.admin.is_none() {
                    let seed = u8::try_from(1 + self.fresh() % 90).unwrap();
                    self.admin = Some((key(seed), self.resource.metadata.uid.clone(), true));
                }
            }
            Step::Apply { wanted, .. } => {
                let mut object = wanted.object.clone();
                let hash = resources::admitted_hash(wanted.key.kind, &object);
                object["metadata"]["annotations"][ADMITTED] = json!(hash);
                self.live.insert(wanted.key.clone(), object);
            }
            Step::SetRetention { part: Part::Genesis, goes } => {
                self.genesis.as_mut().unwrap().1 = *goes;
            }
            Step::SetRetention { part: Part::AdminKey, goes } => {
                self.admin.as_mut().unwrap().2 = *goes;
            }
            Step::SetRetention { part: Part::Volume(claim), goes } => {
                let ordinal: usize = claim.rsplit('-').next().unwrap().parse().unwrap();
                self.disks.get_mut(&ordinal).unwrap().owned = *goes;
            }
            Step::RetryPods { .. } => {}
            Step::CreateGenesis(genesis) => {
                let admin = &self.admin.as_ref().unwrap().0;
                assert_eq!(
                    admin.public_key(),
                    &genesis.admin_key,
                    "signed by the key that it names"
                );
                if self.genesis.is_some() {
                    return;
                }
                let signed = SignedGenesis {
                    signature: admin.sign(&genesis.signing_message()),
                    genesis: genesis.as_ref().clone(),
                };
                signed.verify(&MlDsa87).expect("a valid genesis");
                for (ordinal, member) in genesis.members.iter().enumerate() {
                    assert_eq!(
                        self.disks[&ordinal].key.public_key(),
                        &member.key,
                        "the key on the volume of {}",
                        member.name
                    );
                    assert_eq!(self.disks[&ordinal].chain, None, "an empty volume");
                }
                self.births += 1;
                self.genesis = Some((Arc::new(signed), true));
            }
            Step::PushGenesis { pod, key, genesis, .. } => {
                let ordinal: usize = pod.rsplit('-').next().unwrap().parse().unwrap();
                let disk = self.disks.get_mut(&ordinal).unwrap();
                assert_eq!(disk.key.public_key(), key);
                let chain = genesis.genesis.chain_id().to_string();
                assert!(
                    disk.chain.as_ref().is_none_or(|held| *held == chain),
                    "another chain is never overwritten"
                );
                disk.chain = Some(chain);
            }
            Step::ExpandVolume { .. } => {}
            Step::ReplacePod { ordinal, uid, how, .. } => {
                if *how == Removal::Evict && !self.evictable(*ordinal) {
                    return;
                }
                let ticks = u32::try_from(self.fresh() % 4).unwrap();
                if let Some(pod) = self.pods.get_mut(ordinal).filter(|pod| pod.uid == *uid) {
                    pod.leaving.get_or_insert(ticks);
                }
            }
        }
    }

    /// Whether the API server lets the pod be evicted: one that is not ready always, any other if
    /// as many ready pods stay as the PodDisruptionBudget asks.
    pub(crate) fn evictable(&self, ordinal: usize) -> bool {
        let ready = |pod: &Running| pod.ready_since_ms.is_some() && pod.leaving.is_none();
        let stay = self.pods.iter().filter(|(at, pod)| **at != ordinal && ready(pod)).count();
        let quorum = Cluster::new(&self.resource).unwrap().quorum();
        self.pods.get(&ordinal).is_none_or(|pod| !ready(pod)) || stay >= quorum.q
    }

    /// Ticks and passes without faults.
    pub(crate) fn settle(&mut self, ticks: u32) {
        for _ in 0..ticks {
            for step in self.plan().steps {
                self.take(&step);
            }
            self.tick();
        }
    }

    /// The CretoCluster is deleted and made again; what is retained stays.
    pub(crate) fn recreate(&mut self) {
        self.resource.metadata.uid = Some(format!("uid-{}", 1000 + self.fresh()));
        self.resource.status = None;
        self.live.clear();
        self.pods.clear();
    }
}

/// All objects of a cluster before its chain is born.
pub(crate) fn objects(spec: Value) -> BTreeMap<Key, Value> {
    let cluster = cluster(spec);
    let identity = crate::cluster::identity::Identity {
        cluster_uid: "uid-1".into(),
        admin_fingerprint: key(1).public_key().fingerprint(),
        born: None,
        admin_key_lost: None,
    };
    let settings = settings();
    let blueprint = resources::Blueprint {
        cluster: &cluster,
        identity: &identity,
        settings: &settings,
        running_image: None,
        claim_size: None,
    };
    resources::all(&blueprint).into_iter().map(|wanted| (wanted.key, wanted.object)).collect()
}
