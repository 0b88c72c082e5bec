//! Which node of a chain runs where, and the `node.toml` that follows from it.

use crate::config::Config;
use anyhow::{Context, bail};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

const CONTROL_PORT: u16 = 9000;
const QUIC_PORT: u16 = 9001;
const METRICS_PORT: u16 = 9090;
const API_PORT: u16 = 8080;
/// How far apart the ports of two nodes of one host are. No two of the ports above are equal
/// modulo this.
const STRIDE: u16 = 100;

/// A machine or container, as the other nodes and clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Its address, on which the node listens.
    Address(IpAddr),
    /// Its name; the node listens on all addresses.
    Name(String),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if text.is_empty() || text.len() > 253 || !text.chars().all(allowed) {
            return Err(
                "a host is an IP address, or a DNS name of 1 to 253 letters, digits, `-`, \
                        `.` and `_`; its ports are given by its place in the list"
                    .into(),
            );
        }
        Ok(Self::Name(text.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Host {
    fn listen(&self) -> IpAddr {
        match self {
            Self::Address(address) => *address,
            Self::Name(_) => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    fn peer(&self, port: u16) -> String {
        match self {
            Self::Address(IpAddr::V4(address)) => format!("/ip4/{address}/udp/{port}/quic"),
            Self::Address(IpAddr::V6(address)) => format!("/ip6/{address}/udp/{port}/quic"),
            Self::Name(name) => format!("/dns/{name}/udp/{port}/quic"),
        }
    }
}

/// The name of the node at this place in the genesis.
#[must_use]
pub fn node_name(index: usize) -> String {
    format!("node-{index}")
}

/// Where a node of a [`Layout`] serves its clients, given where its control port listens.
///
/// # Errors
/// When the control port is below those that a layout gives.
pub fn api_address(control: SocketAddr) -> anyhow::Result<SocketAddr> {
    match control.port().checked_sub(CONTROL_PORT - API_PORT) {
        Some(port) if port > 0 => Ok(SocketAddr::new(control.ip(), port)),
        _ => bail!(
            "network.listen_addr = {control} leaves no port for clients; write a port from \
             {CONTROL_PORT} on"
        ),
    }
}

/// The places of all nodes of a chain.
#[derive(Clone, Debug)]
pub struct Layout {
    nodes: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    host: Host,
    /// What is added to each port.
    offset: u16,
    /// The node's folder, as the node sees it.
    data_dir: PathBuf,
}

impl Layout {
    /// `hosts` has one for each of `nodes`, or one for all, or none for 127.0.0.1. Each node's
    /// folder is `data_dir`, or lies in `folder`.
    ///
    /// # Errors
    /// When hosts and nodes do not match, or the folder has no absolute path.
    pub fn new(
        folder: &Path,
        nodes: usize,
        hosts: &[Host],
        data_dir: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let local = [Host::Address(Ipv4Addr::LOCALHOST.into())];
        let hosts = match hosts {
            [] => local.as_slice(),
            hosts => hosts,
        };
        if hosts.len() != 1 && hosts.len() != nodes {
            bail!(
                "--host names {} hosts for {nodes} nodes; name one for each node, or one for all",
                hosts.len()
            );
        }
        if let Some(relative) = data_dir.filter(|path| !path.is_absolute()) {
            bail!("--data-dir {} is refused: write an absolute path", relative.display());
        }
        let folder = std::path::absolute(folder)
            .with_context(|| format!("no absolute path of {}", folder.display()))?;
        let mut places: Vec<Place> = Vec::new();
        for (index, host) in hosts.iter().cycle().take(nodes).enumerate() {
            let before = places.iter().filter(|place| place.host == *host).count();
            let offset = u16::try_from(before)
                .ok()
                .and_then(|before| before.checked_mul(STRIDE))
                .filter(|offset| *offset <= u16::MAX - METRICS_PORT)
                .with_context(|| format!("--host {host}: too many nodes share this host"))?;
            let data_dir =
                data_dir.map_or_else(|| folder.join(node_name(index)), Path::to_path_buf);
            places.push(Place { host: host.clone(), offset, data_dir });
        }
        Ok(Self { nodes: places })
    }

    /// How many nodes there are.
    #[must_use]
    pub const fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The node's folder, as the node sees it.
    pub(super) fn data_dir(&self, index: usize) -> &Path {
        self.nodes.get(index).map_or(Path::new("/data"), |place| &place.data_dir)
    }

    /// Where clients reach the node.
    pub(super) fn client_address(&self, index: usize) -> String {
        self.nodes
            .get(index)
            .map_or_else(String::new, |place| format!("{}:{}", place.host, API_PORT + place.offset))
    }

    /// What `run` needs beside the configuration.
    pub(super) fn api_argument(&self, index: usize) -> String {
        match self.nodes.get(index) {
            Some(place) if place.offset > 0 => {
                let api = SocketAddr::new(place.host.listen(), API_PORT + place.offset);
                format!(" --api-listen {api}")
            }
            _ => String::new(),
        }
    }

    /// The text of the node's configuration. A key that it leaves out has its default.
    ///
    /// # Errors
    /// When the node's folder cannot be written in TOML.
    pub(super) fn node_toml(&self, index: usize) -> anyhow::Result<String> {
        let place = self.nodes.get(index).with_context(|| format!("there is no node {index}"))?;
        let data_dir = place.data_dir.to_str().with_context(|| {
            format!("{} is not UTF-8, as node.toml needs", place.data_dir.display())
        })?;
        let listen = SocketAddr::new(place.host.listen(), CONTROL_PORT + place.offset);
        let peers: Vec<String> = self
            .nodes
            .iter()
            .map(|peer| format!("    \"{}\",\n", peer.host.peer(QUIC_PORT + peer.offset)))
            .collect();
        Ok(format!(
            "# Made by `cretoai-node init`. A key that is not here has its default.\n\
             [node]\n\
             id = \"{name}\"\n\
             data_dir = {data_dir}\n\
             \n\
             [network]\n\
             listen_addr = \"{listen}\"\n\
             quic_port = {quic}\n\
             bootstrap_peers = [\n{peers}]\n\
             \n\
             # Small enough for several nodes on one machine.\n\
             [storage]\n\
             cache_size_mb = 64\n\
             write_buffer_mb = 64\n\
             \n\
             [metrics]\n\
             port = {metrics}\n",
            name = node_name(index),
            data_dir = toml::Value::from(data_dir),
            quic = QUIC_PORT + place.offset,
            peers = peers.concat(),
            metrics = METRICS_PORT + place.offset,
        ))
    }

    /// The node's configuration, checked.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub(super) fn config(&self, index: usize) -> anyhow::Result<Config> {
        Ok(Config::parse(&self.node_toml(index)?, None)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::collections::BTreeSet;

    fn hosts(texts: &[&str]) -> Vec<Host> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nodes_of_one_host_share_no_port() {
        let layout = Layout::new(Path::new("/x"), 31, &[], None).unwrap();
        let mut ports = BTreeSet::new();
        for index in 0..31 {
            let config = layout.config(index).unwrap();
            let api = api_address(config.network.listen_addr).unwrap();
            assert_eq!(layout.client_address(index), api.to_string());
            let control = config.network.listen_addr.port();
            ports.extend([control, config.network.quic_port, config.metrics.port, api.port()]);
            assert_eq!(config.network.bootstrap_peers.len(), 31);
        }
        assert_eq!(ports.len(), 4 * 31);
    }

    #[test]
    fn names_are_dialled_and_all_addresses_listened_on() {
        let names = hosts(&["node-0", "node-1", "node-2"]);
        let layout = Layout::new(Path::new("/x"), 3, &names, Some(Path::new("/data"))).unwrap();
        let config = layout.config(2).unwrap();
        assert_eq!(config.network.listen_addr.to_string(), "0.0.0.0:9000");
        assert_eq!(config.node.data_dir, Path::new("/data"));
        let text = layout.node_toml(2).unwrap();
        assert!(text.contains("\"/dns/node-1/udp/9001/quic\""), "{text}");
        assert_eq!(layout.api_argument(2), "");
        assert_eq!(layout.client_address(2), "node-2:8080");
    }

    #[test]
    fn a_folder_with_quotes_and_backslashes_survives_toml() {
        let folder = Path::new("/a \"b\" \\c");
        let layout = Layout::new(folder, 1, &[], None).unwrap();
        assert_eq!(layout.config(0).unwrap().node.data_dir, folder.join("node-0"));
    }

    #[test]
    fn hosts_must_fit_the_nodes() {
        let two = hosts(&["10.0.0.1", "10.0.0.2"]);
        let refused = Layout::new(Path::new("/x"), 4, &two, None).unwrap_err().to_string();
        assert!(refused.contains("2 hosts for 4 nodes"), "{refused}");
        let relative = Layout::new(Path::new("/x"), 1, &[], Some(Path::new("data"))).unwrap_err();
        assert!(relative.to_string().contains("--data-dir data"), "{relative}");
        assert!("a/udp/1".parse::<Host>().is_err() && "".parse::<Host>().is_err());
    }
}
