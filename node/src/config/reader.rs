//! Takes keys out of a TOML section one by one, so that what is left over is unknown and can be
//! named.

use super::ConfigError;
use crate::peer_address::PeerAddress;
use std::{ops::RangeInclusive, path::PathBuf, str::FromStr};
use toml::{Table, Value};

/// Beyond this many members there is no chain, so more addresses are a mistake.
const MAX_PEERS: usize = 64;

/// What is left of one section, and the keys asked of it so far.
#[derive(Default)]
pub(super) struct Section {
    name: &'static str,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    /// The sections of a file, in the order of `names`; one that the file does not have is empty.
    pub(super) fn split(
        root: &mut Table,
        names: &[&'static str],
    ) -> Result<Vec<Self>, ConfigError> {
        let sections = names
            .iter()
            .map(|&name| match root.remove(name) {
                None => Ok(Self { name, ..Self::default() }),
                Some(Value::Table(table)) => Ok(Self { name, table, known: vec![] }),
                Some(value) => Err(ConfigError::Value {
                    key: name.into(),
                    value: shown(&value),
                    fix: format!("[{name}] is a section"),
                }),
            })
            .collect::<Result<_, _>>()?;
        match root.keys().next() {
            None => Ok(sections),
            Some(key) => Err(ConfigError::Unknown {
                key: short(key),
                fix: format!("the sections are [{}]", names.join("], [")),
            }),
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(ConfigError::Unknown {
                key: format!("{}.{}", self.name, short(key)),
                fix: format!("the keys of [{}] are {}", self.name, self.known.join(", ")),
            }),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn refuse<T>(
        &self,
        key: &str,
        value: &Value,
        fix: impl Into<String>,
    ) -> Result<T, ConfigError> {
        Err(ConfigError::Value {
            key: format!("{}.{key}", self.name),
            value: shown(value),
            fix: fix.into(),
        })
    }

    pub(super) fn text(
        &mut self,
        key: &'static str,
        default: Option<&str>,
    ) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(default.map(Into::into)),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.refuse(key, &other, "write a text in double quotes"),
        }
    }

    pub(super) fn choice(
        &mut self,
        key: &'static str,
        choices: &[&str],
        default: usize,
        why: &str,
    ) -> Result<String, ConfigError> {
        let default = choices.get(default).copied();
        let text = self.text(key, default)?.unwrap_or_default();
        if choices.contains(&text.as_str()) {
            return Ok(text);
        }
        let fix = match choices {
            [only] => format!("{why}write \"{only}\""),
            _ => format!("{why}write one of \"{}\"", choices.join("\", \"")),
        };
        self.refuse(key, &Value::String(text), fix)
    }

    pub(super) fn path(
        &mut self,
        key: &'static str,
        default: PathBuf,
    ) -> Result<PathBuf, ConfigError> {
        match self.text(key, None)? {
            None => Ok(default),
            Some(text) if text.is_empty() || text.contains('\0') => {
                self.refuse(key, &Value::String(text), "write the path of a folder")
            }
            Some(text) => Ok(text.into()),
        }
    }

    pub(super) fn parsed<T: FromStr>(
        &mut self,
        key: &'static str,
        default: &str,
        fix: &str,
    ) -> Result<T, ConfigError> {
        let text = self.text(key, Some(default))?.unwrap_or_default();
        match text.parse() {
            Ok(value) => Ok(value),
            Err(_) => self.refuse(key, &Value::String(text), fix),
        }
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(default) };
        match value.as_integer().and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(number) => Ok(number),
            None => self.refuse(
                key,
                &value,
                format!("write a whole number from {} to {}", range.start(), range.end()),
            ),
        }
    }

    pub(super) fn port(&mut self, key: &'static str, default: u16) -> Result<u16, ConfigError> {
        let port = self.number(key, default.into(), 1..=u16::MAX.into())?;
        Ok(u16::try_from(port).unwrap_or(default))
    }

    pub(super) fn fraction(&mut self, key: &'static str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        match number.filter(|n| *n > 0.5 && *n <= 1.0) {
            Some(number) => Ok(number),
            None => self.refuse(
                key,
                &value,
                "write a share above 0.5, at most 1; 0.67 stands for 2f+1 of 3f+1",
            ),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Boolean(flag)) => Ok(flag),
            Some(other) => self.refuse(key, &other, "write true or false, without quotes"),
        }
    }

    pub(super) fn peers(&mut self, key: &'static str) -> Result<Vec<PeerAddress>, ConfigError> {
        let items = match self.take(key) {
            None => return Ok(vec![]),
            Some(Value::Array(items)) => items,
            Some(other) => {
                return self.refuse(
                    key,
                    &other,
                    "write a list: [\"/dns/prod-0.prod-nodes/udp/9001/quic\"]",
                );
            }
        };
        if items.len() > MAX_PEERS {
            let count = Value::Integer(i64::try_from(items.len()).unwrap_or(i64::MAX));
            return self.refuse(
                key,
                &count,
                format!("at most {MAX_PEERS} addresses; a chain has at most 31 validators"),
            );
        }
        items
            .iter()
            .map(|item| match item.as_str().map(str::parse) {
                Some(Ok(address)) => Ok(address),
                Some(Err(error)) => self.refuse(key, item, format!("{error}")),
                None => self.refuse(key, item, "each address is a text in double quotes"),
            })
            .collect()
    }
}

fn shown(value: &Value) -> String {
    short(&value.to_string())
}

fn short(text: &str) -> String {
    match text.char_indices().nth(120) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
