//! Looks at the files of a database before RocksDB does.
//!
//! The rule: nothing is created over the rests of a database. RocksDB would make a new one where
//! the file CURRENT is missing, would take a MANIFEST that was cut off for a shorter one, and would
//! delete every file that it then does not know.

use super::StorageError;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// What a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A database, with tables or without.
    Database {
        tables: bool,
    },
}

impl Found {
    /// Whether column families may be made. A first start that was cut off has made some of them,
    /// and no table yet.
    pub(super) const fn is_new(self) -> bool {
        matches!(self, Self::Nothing | Self::Database { tables: false })
    }
}

/// A MANIFEST is rolled over long before it has as much.
const MAX_MANIFEST: u64 = 1 << 30;

/// Looks, and changes nothing.
pub(super) fn look(path: &Path) -> Result<Found, StorageError> {
    let folder = |source| StorageError::Folder { path: path.to_owned(), source };
    let damaged = |what| StorageError::Damaged { path: path.to_owned(), what };
    let mut files = Vec::new();
    match std::fs::read_dir(path) {
        Ok(entries) => {
            for entry in entries {
                files.push(entry.map_err(folder)?.file_name().to_string_lossy().into_owned());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(folder(error)),
    }
    files.sort_unstable();
    let current = path.join("CURRENT");
    if !files.iter().any(|file| file == "CURRENT") {
        // A first start that was cut off leaves a MANIFEST alone; it has stored nothing yet.
        let data = |file: &&String| file.ends_with(".sst") || file.ends_with(".log");
        return match files.iter().find(data) {
            None => Ok(Found::Nothing),
            Some(file) => Err(damaged(format!("{file} is there, and CURRENT is missing"))),
        };
    }
    let named = std::fs::read_to_string(&current).map_err(folder)?;
    let name = named.strip_suffix('\n').unwrap_or_default();
    if !name.starts_with("MANIFEST-") {
        return Err(damaged("CURRENT names no MANIFEST".to_owned()));
    }
    let manifest: PathBuf = path.join(name);
    let bytes = match File::open(&manifest) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MAX_MANIFEST).read_to_end(&mut bytes).map_err(folder)?;
            bytes
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(format!("{name}, which CURRENT names, is missing")));
        }
        Err(error) => return Err(folder(error)),
    };
    if is_whole(&bytes) {
        Ok(Found::Database { tables: files.iter().any(|file| file.ends_with(".sst")) })
    } else {
        Err(damaged(format!("{name} has {} bytes and ends within a record", bytes.len())))
    }
}

/// Blocks of RocksDB's log format. A record has a header of checksum (4), length (2) and type (1).
const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
/// Types of records that a later one continues: first and middle.
const CONTINUED: [u8; 2] = [2, 3];

/// Whether a log ends behind a whole record. Checksums are RocksDB's business.
fn is_whole(log: &[u8]) -> bool {
    let mut continued = true;
    for block in log.chunks(BLOCK) {
        let mut rest = block;
        while let [_, _, _, _, low, high, kind, data @ ..] = rest {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            if (*kind, length) == (0, 0) {
                // Room that was set aside.
                rest = &[];
                break;
            }
            let Some(next) = data.get(length..) else { return false };
            continued = CONTINUED.contains(kind);
            rest = next;
        }
        // A block that is full ends with less than a header of zeros.
        let fills = block.len() == BLOCK && rest.len() < HEADER;
        let ends_well = rest.is_empty() || (fills && rest.iter().all(|byte| *byte == 0));
        if !ends_well {
            return false;
        }
    }
    !continued
}
