//! What a node writes down, in RocksDB.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `vertices` | vertex id | [`Vertex`] |
//! | `edges` | parent id, child id | nothing |
//! | `metadata` | vertex id | [`VertexMetadata`] |
//! | `index_height` | height, author, vertex id | nothing |
//! | `index_timestamp` | the author's timestamp (ms), vertex id | nothing |
//! | `finalized` | sequence | [`Finalized`] |
//! | `payloads` | payload id | [`Location`] |
//! | `consensus` | see `votes`, `proofs`, `evidence` | genesis, state, votes, certificates, evidence |
//!
//! The first six are the specification's. Numbers in keys are big-endian, values are canonical
//! borsh. One turn of the engine is one write batch, and batches are written in the order of turns:
//! what survives a crash is a prefix.

mod evidence;
mod fetch;
mod files;
mod history;
mod proofs;
mod receipt;
mod recover;
mod votes;

use crate::metrics::Metrics;
use borsh::{BorshDeserialize, BorshSerialize};
use cretoai_consensus::engine::{Execution, Turn, Write};
use cretoai_types::{
    CheckedVertex, DecodeError, Epoch, Hash, Height, NodeId, Outcome, Payload, Record, Sequence,
    Vertex, decode, encode,
};
pub use evidence::Counted;
pub use history::Decided;
use proofs::{Range, Sweep};
pub use receipt::Receipted;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    IteratorMode, Options, WriteBatch, WriteOptions,
};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use votes::{CHECKPOINT, MARK, NEW_VIEW, PREPARED, STALE, STATE, SUCCESSOR, VIEW_CHANGE};

const VERTICES: &str = "vertices";
const EDGES: &str = "edges";
const METADATA: &str = "metadata";
const INDEX_HEIGHT: &str = "index_height";
const INDEX_TIMESTAMP: &str = "index_timestamp";
const FINALIZED: &str = "finalized";
const PAYLOADS: &str = "payloads";
const CONSENSUS: &str = "consensus";
const FAMILIES: [&str; 8] =
    [VERTICES, EDGES, METADATA, INDEX_HEIGHT, INDEX_TIMESTAMP, FINALIZED, PAYLOADS, CONSENSUS];

/// What is known of a vertex beside itself.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VertexMetadata {
    /// Its author.
    pub author: NodeId,
    /// Its height in the author's lane.
    pub height: Height,
    /// The author's claim of when it was made, Unix milliseconds.
    pub timestamp_ms: u64,
    /// The sequence that made it final, once one did.
    pub finalized: Option<Sequence>,
}

/// A decision as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Finalized {
    /// The epoch that decided it.
    pub epoch: Epoch,
    /// The record.
    pub record: Record,
    /// The chain hash after it.
    pub chain_hash: Hash,
    /// For each vertex of the record the outcomes of its payloads.
    pub outcomes: Vec<Vec<Outcome>>,
}

/// Where a payload stands in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Location {
    /// The sequence that ordered it.
    pub sequence: Sequence,
    /// Its position among all payloads of that sequence.
    pub index: u32,
    /// The vertex that carries it.
    pub vertex: Hash,
    /// Its position in that vertex.
    pub position: u32,
    /// What became of it there.
    pub outcome: Outcome,
}

/// What goes wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The folder cannot be looked through.
    #[error("the store at {path}: {source}")]
    Folder {
        /// The database.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// RocksDB refused.
    #[error("RocksDB at {path}: {source}")]
    RocksDb {
        /// The database.
        path: PathBuf,
        /// What it said.
        source: rocksdb::Error,
    },
    /// Something that is in the store cannot be read, or is missing.
    #[error(
        "the store at {path} is damaged: {what}. Leave the volume as it is and never give this key an empty or older one: \
         put the undamaged files back, or replace this validator by one with a new key (docs/operations.md, damaged volume)"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Written by a release with another format.
    #[error(
        "the store at {path} has format {found}, and this release reads and writes format {FORMAT}; \
         run the release that wrote it, or give this node an empty volume and a new identity"
    )]
    Format {
        /// The database.
        path: PathBuf,
        /// The format that was found; 1 is the one before formats were numbered.
        found: u32,
    },
    /// The votes in the store are another key's.
    #[error(
        "the store at {path} holds the votes of key {owner}, but this node's key is {key}; a key must never be parted from its votes: \
         give both from one volume"
    )]
    Owner {
        /// The database.
        path: PathBuf,
        /// Whose votes it holds.
        owner: Hash,
        /// This node's key.
        key: Hash,
    },
}

/// The format of rows and of the objects in them. Another one is refused by its number.
pub const FORMAT: u32 = 2;

impl StorageError {
    /// What RocksDB said, damage told from all else.
    fn of(path: &Path, source: rocksdb::Error) -> Self {
        let path = path.to_owned();
        let missing_family = source.kind() == rocksdb::ErrorKind::InvalidArgument
            && source.as_ref().contains("olumn famil");
        if source.kind() == rocksdb::ErrorKind::Corruption || missing_family {
            return Self::Damaged { path, what: source.into_string() };
        }
        Self::RocksDb { path, source }
    }

    /// Whether what is on the disk cannot be what was written.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// How long a start waits for another process to give the database up.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// RocksDB has no kind of its own for this, only the name of the file in its sentence.
fn is_locked(error: &rocksdb::Error) -> bool {
    error.as_ref().contains("LOCK")
}

/// The sizes that node.toml sets.
#[derive(Clone, Copy, Debug)]
pub struct StorageOptions {
    /// Block cache, bytes.
    pub cache_bytes: usize,
    /// Memory tables of all column families together, bytes.
    pub write_buffer_bytes: usize,
}

/// The store of one node.
pub struct Storage {
    db: DB,
    path: PathBuf,
    metrics: Arc<Metrics>,
    /// The records since the newest kept proof; nothing until they are counted.
    range: Mutex<Option<Range>>,
    sweep: Mutex<Sweep>,
}

impl Storage {
    /// Opens the database. In a folder without any file of a database it makes one; over the rests
    /// of one it makes nothing.
    ///
    /// # Errors
    /// When RocksDB cannot open it: another process holds it, no permission, or damage. Damage
    /// that is found before the database is opened leaves every file as it is.
    pub fn open(
        path: &Path,
        options: StorageOptions,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StorageError> {
        let found = files::look(path)?;
        let mut db_options = Options::default();
        db_options.create_if_missing(found == files::Found::Nothing);
        db_options.create_missing_column_families(found.is_new());
        db_options.set_paranoid_checks(true);
        // The MANIFEST names the logs that were closed, with what was synced of them: without them
        // there is no start. The newest log is not among them.
        db_options.set_track_and_verify_wals_in_manifest(true);
        // Only the record that a crash cut off may be missing at the end of a log: damage before
        // it stops the start, where the default would drop everything behind it in silence.
        db_options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        db_options.set_db_write_buffer_size(options.write_buffer_bytes);
        db_options.set_max_total_wal_size(options.write_buffer_bytes as u64);
        db_options.set_max_open_files(512);
        db_options.set_max_background_jobs(2);
        db_options.set_keep_log_file_num(4);
        db_options.set_max_log_file_size(16 << 20);
        // All column families reach the disk together: what survives is a prefix of the batches.
        db_options.set_atomic_flush(true);
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let families = || {
            FAMILIES.map(|name| {
                let mut table = BlockBasedOptions::default();
                table.set_block_cache(&cache);
                table.set_bloom_filter(10.0, false);
                table.set_cache_index_and_filter_blocks(true);
                let mut family = Options::default();
                family.set_block_based_table_factory(&table);
                family.set_compression_type(DBCompressionType::Lz4);
                ColumnFamilyDescriptor::new(name, family)
            })
        };
        let began = Instant::now();
        let db = loop {
            match DB::open_cf_descriptors(&db_options, path, families()) {
                Ok(db) => break db,
                // A pod that was deleted by force may still be ending while its successor starts.
                Err(error)
                    if error.kind() == rocksdb::ErrorKind::IOError
                        && is_locked(&error)
                        && began.elapsed() < LOCK_PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(source) => return Err(StorageError::of(path, source)),
            }
        };
        let storage = Self {
            db,
            path: path.to_owned(),
            metrics,
            range: Mutex::new(None),
            sweep: Mutex::default(),
        };
        storage.check_format()?;
        Ok(storage)
    }

    fn family(
        &self,
        name: &'static str,
    ) -> Result<Arc<rocksdb::BoundColumnFamily<'_>>, StorageError> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| self.damaged(format!("column family {name} is missing")))
    }

    fn damaged(&self, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { path: self.path.clone(), what: what.into() }
    }

    fn failed(&self, source: rocksdb::Error) -> StorageError {
        StorageError::of(&self.path, source)
    }

    fn unreadable(&self, error: &DecodeError) -> StorageError {
        self.damaged(error.to_string())
    }

    fn get<T: BorshDeserialize>(
        &self,
        family: &'static str,
        key: &[u8],
    ) -> Result<Option<T>, StorageError> {
        let bytes =
            self.db.get_pinned_cf(&self.family(family)?, key).map_err(|e| self.failed(e))?;
        bytes.map(|bytes| decode(&bytes).map_err(|e| self.unreadable(&e))).transpose()
    }

    fn put(
        &self,
        batch: &mut WriteBatch,
        family: &'static str,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StorageError> {
        batch.put_cf(&self.family(family)?, key, value);
        Ok(())
    }

    /// Writes what a turn of the engine must leave behind, in one batch, with one fsync if the turn
    /// asks for it.
    ///
    /// # Errors
    /// When the write fails. The node must then stop: it would vote on what it may forget.
    pub fn write(&self, turn: &Turn) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        let mut decided = HashSet::new();
        for write in &turn.writes {
            match write {
                Write::Vertex(vertex) => self.put_vertex(&mut batch, vertex)?,
                Write::Vote { vote, proposed } => {
                    self.put_vote(&mut batch, vote, proposed.as_ref())?
                }
                Write::Prepared(prepared) => self.put_signed(&mut batch, PREPARED, prepared)?,
                Write::ViewChange(change) => {
                    self.put_signed(&mut batch, VIEW_CHANGE, change.as_ref())?
                }
                Write::NewView(new_view) => {
                    self.put_signed(&mut batch, NEW_VIEW, new_view.as_ref())?
                }
                Write::Checkpoint(checkpoint) => {
                    self.put_signed(&mut batch, CHECKPOINT, checkpoint)?
                }
                Write::Mark(mark) => self.put_signed(&mut batch, MARK, mark)?,
                Write::Stale => self.put_signed(&mut batch, STALE, &())?,
                Write::Stable(certificate) => {
                    self.put_stable(&mut batch, certificate)?;
                    self.erase_votes(&mut batch, turn, certificate.state.sequence)?;
                }
                Write::Proof(sequence, proof) => {
                    self.put_late_proof(&mut batch, *sequence, proof)?
                }
                Write::Execution(execution) => {
                    self.put_execution(&mut batch, &mut decided, turn, execution)?
                }
                Write::Epoch { certificate, validators, state } => {
                    self.put_epoch(&mut batch, certificate, validators, state)?
                }
            }
        }
        self.commit(batch, turn.sync)
    }

    fn commit(&self, batch: WriteBatch, sync: bool) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let began = Instant::now();
        self.db.write_opt(batch, &options).map_err(|e| self.failed(e))?;
        if sync {
            self.metrics.rocksdb_write.observe(began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn put_vertex(
        &self,
        batch: &mut WriteBatch,
        vertex: &CheckedVertex,
    ) -> Result<(), StorageError> {
        self.metrics.vertices_stored.inc();
        let (id, header) = (vertex.id(), vertex.header());
        self.put(batch, VERTICES, &id.0, &encode(vertex.vertex()))?;
        for parent in header.parents() {
            self.put(batch, EDGES, &[parent.0, id.0].concat(), &[])?;
            self.metrics.edges_stored.inc();
        }
        let metadata = VertexMetadata {
            author: header.author,
            height: header.height,
            timestamp_ms: header.timestamp_ms,
            finalized: None,
        };
        self.put(batch, METADATA, &id.0, &encode(&metadata))?;
        self.put(
            batch,
            INDEX_HEIGHT,
            &[slot(header.author, header.height).as_slice(), &id.0].concat(),
            &[],
        )?;
        self.put(
            batch,
            INDEX_TIMESTAMP,
            &[header.timestamp_ms.to_be_bytes().as_slice(), &id.0].concat(),
            &[],
        )
    }

    /// `decided` are the payloads that got a final outcome in this batch already: the database
    /// does not know of them yet, and outcomes must not depend on how many decisions one turn
    /// executes.
    fn put_execution(
        &self,
        batch: &mut WriteBatch,
        decided: &mut HashSet<Hash>,
        turn: &Turn,
        execution: &Execution,
    ) -> Result<(), StorageError> {
        let sequence = execution.record.proposal.sequence;
        let mut index = 0;
        for (vertex, outcomes) in &execution.vertices {
            let header = vertex.header();
            let metadata = VertexMetadata {
                author: header.author,
                height: header.height,
                timestamp_ms: header.timestamp_ms,
                finalized: Some(sequence),
            };
            self.put(batch, METADATA, &vertex.id().0, &encode(&metadata))?;
            for ((position, (id, _)), outcome) in (0..).zip(vertex.payloads()).zip(outcomes) {
                let location =
                    Location { sequence, index, vertex: vertex.id(), position, outcome: *outcome };
                // Only an execution may take the place of what is known already.
                let takes_place = match outcome {
                    Outcome::Executed => true,
                    Outcome::Duplicate { .. } => false,
                    _ if decided.contains(&id) => false,
                    _ => !self.location(&id)?.is_some_and(|known| known.outcome.is_final()),
                };
                if takes_place {
                    self.put(batch, PAYLOADS, &id.0, &encode(&location))?;
                    if outcome.is_final() {
                        decided.insert(id);
                    }
                }
                index += 1;
            }
        }
        let finalized = Finalized {
            epoch: execution.epoch,
            record: execution.record.clone(),
            chain_hash: execution.chain_hash,
            outcomes: execution.vertices.iter().map(|(_, outcomes)| outcomes.clone()).collect(),
        };
        self.put(batch, FINALIZED, &sequence.0.to_be_bytes(), &encode(&finalized))?;
        self.put_signed(batch, STATE, &execution.state)?;
        if let Some(successor) = &execution.successor {
            self.put_signed(batch, SUCCESSOR, successor.as_ref())?;
        }
        self.put_evidence(batch, execution)?;
        self.put_proof(batch, turn, execution)
    }

    /// The newest decision, if there is one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn newest(&self) -> Result<Option<Finalized>, StorageError> {
        let mut newest = self.db.iterator_cf(&self.family(FINALIZED)?, IteratorMode::End);
        let Some(entry) = newest.next() else { return Ok(None) };
        let (_, bytes) = entry.map_err(|e| self.failed(e))?;
        decode(&bytes).map(Some).map_err(|e| self.unreadable(&e))
    }

    /// The decision of a sequence.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn finalized(&self, sequence: Sequence) -> Result<Option<Finalized>, StorageError> {
        self.get(FINALIZED, &sequence.0.to_be_bytes())
    }

    /// A vertex by its id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn vertex(&self, id: &Hash) -> Result<Option<Vertex>, StorageError> {
        self.metrics.vertices_read.inc();
        self.get(VERTICES, &id.0)
    }

    /// Where a payload stands, if it was ordered.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn location(&self, id: &Hash) -> Result<Option<Location>, StorageError> {
        self.get(PAYLOADS, &id.0)
    }

    /// The payload at a location.
    ///
    /// # Errors
    /// When the store cannot be read, or the vertex is not there.
    pub fn payload(&self, location: &Location) -> Result<Payload, StorageError> {
        let vertex = self.vertex(&location.vertex)?;
        let payload = vertex.and_then(|v| v.payloads.into_iter().nth(location.position as usize));
        payload.ok_or_else(|| {
            self.damaged(format!(
                "payload {} of vertex {} is missing",
                location.position, location.vertex
            ))
        })
    }

    /// The ids of the vertices in a slot of a lane: one, or two if their author forked.
    fn slot(&self, author: NodeId, height: Height) -> Result<Vec<Hash>, StorageError> {
        let prefix = slot(author, height);
        let mut ids = Vec::new();
        let from = IteratorMode::From(&prefix, rocksdb::Direction::Forward);
        for entry in self.db.iterator_cf(&self.family(INDEX_HEIGHT)?, from) {
            let (key, _) = entry.map_err(|e| self.failed(e))?;
            let Some(id) = key.strip_prefix(prefix.as_slice()) else { break };
            ids.push(Hash(
                id.try_into().map_err(|_| self.damaged("a height index key of the wrong size"))?,
            ));
        }
        Ok(ids)
    }
}

/// What RocksDB says of its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of all tables.
    pub tables: u64,
    /// Bytes that compactions have still to rewrite, by RocksDB's estimate.
    pub pending_compaction: u64,
    /// Compactions that run.
    pub running_compactions: u64,
}

impl Storage {
    /// How large the database is, for the metrics; zero where RocksDB does not say.
    pub fn sizes(&self) -> Sizes {
        let of = |name: &str| {
            let families = FAMILIES.iter().filter_map(|family| self.family(family).ok());
            let values =
                families.map(|family| self.db.property_int_value_cf(&family, name).ok().flatten());
            values.flatten().sum()
        };
        Sizes {
            tables: of("rocksdb.total-sst-files-size"),
            pending_compaction: of("rocksdb.estimate-pending-compaction-bytes"),
            running_compactions: self
                .db
                .property_int_value("rocksdb.num-running-compactions")
                .ok()
                .flatten()
                .unwrap_or(0),
        }
    }

    /// Bytes that the file system of the database has left for this process.
    ///
    /// # Errors
    /// What the system answered.
    pub fn free_bytes(&self) -> std::io::Result<u64> {
        let of = rustix::fs::statvfs(&self.path)?;
        Ok(of.f_bavail.saturating_mul(of.f_frsize))
    }
}

/// The beginning of a key of `index_height`.
fn slot(author: NodeId, height: Height) -> [u8; 12] {
    let mut key = [0; 12];
    let (high, low) = key.split_at_mut(8);
    high.copy_from_slice(&height.0.to_be_bytes());
    low.copy_from_slice(&author.0.to_be_bytes());
    key
}
