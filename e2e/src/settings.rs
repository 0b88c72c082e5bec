//! What the scripts tell through the environment: programs, images, charts, and how far the network
//! reaches.

use anyhow::{Context, Result, bail};
use std::{env, path::PathBuf};

/// How this process reaches pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Addresses of pods and Services answer here.
    Direct,
    /// Only the API server does: ports are forwarded by kubectl.
    Forward,
}

/// An image, as the charts want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// All before the tag.
    pub repository: String,
    /// The tag.
    pub tag: String,
}

impl Image {
    fn parse(text: &str) -> Option<Self> {
        let (repository, tag) = text.rsplit_once(':')?;
        if repository.is_empty() || tag.is_empty() || tag.contains('/') {
            return None;
        }
        Some(Self { repository: repository.into(), tag: tag.into() })
    }

    /// Both together.
    pub fn name(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The helm program.
    pub helm: PathBuf,
    /// The kubectl program.
    pub kubectl: PathBuf,
    /// The folder of the charts.
    pub charts: PathBuf,
    /// The folder of the samples.
    pub samples: PathBuf,
    /// Image of the nodes.
    pub node_image: Image,
    /// Image of the operator.
    pub operator_image: Image,
    /// Image of this very binary.
    pub e2e_image: Option<Image>,
    /// Image of a node that attacks.
    pub byzantine_image: Option<Image>,
    /// The node's program, for what it does without a node.
    pub node_binary: PathBuf,
    /// The program that people type, cretoai.
    pub client_binary: PathBuf,
    /// The prometheus program.
    pub prometheus: PathBuf,
    /// How pods are reached.
    pub reach: Reach,
}

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// A variable is missing or has no meaning.
    pub fn from_environment() -> Result<Self> {
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let image = |name: &str| -> Result<Option<Image>> {
            text(name)
                .map(|value| {
                    Image::parse(&value)
                        .with_context(|| format!("{name} is '{value}', which is no image with a tag; run it through make, which sets it"))
                })
                .transpose()
        };
        let needed = |name: &str| {
            image(name)?.with_context(|| format!("{name} is not set; run this through make demo or make e2e, which make the images"))
        };
        let reach = match text("CRETO_REACH").as_deref() {
            None | Some("direct") => Reach::Direct,
            Some("forward") => Reach::Forward,
            Some(other) => bail!("CRETO_REACH is '{other}'; it must be direct or forward"),
        };
        let path = |name: &str, default: &str| {
            text(name).map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        Ok(Self {
            helm: path("CRETO_HELM", "helm"),
            kubectl: path("CRETO_KUBECTL", "kubectl"),
            charts: path("CRETO_CHARTS", "charts"),
            samples: path("CRETO_SAMPLES", "config/samples"),
            node_image: needed("CRETO_NODE_IMAGE")?,
            operator_image: needed("CRETO_OPERATOR_IMAGE")?,
            e2e_image: image("CRETO_E2E_IMAGE")?,
            byzantine_image: image("CRETO_BYZANTINE_IMAGE")?,
            node_binary: path("CRETO_NODE_BINARY", "target/release/cretoai-node"),
            client_binary: path("CRETO_CLIENT_BINARY", "target/release/cretoai"),
            prometheus: path("CRETO_PROMETHEUS", "prometheus"),
            reach,
        })
    }

    /// kubectl as the user types it in a shell of his own.
    pub fn kubectl_of_the_user(&self) -> String {
        match self.reach {
            Reach::Direct => "e2e/kubernetes/cluster kubectl".into(),
            Reach::Forward => "kubectl".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Image;

    #[test]
    fn an_image_is_split_at_its_tag_and_not_at_a_port() {
        let image = Image::parse("localhost:5000/creto/cretoai-node:1a2b");
        assert_eq!(
            image,
            Some(Image {
                repository: "localhost:5000/creto/cretoai-node".into(),
                tag: "1a2b".into()
            })
        );
        assert_eq!(
            image.map(|image| image.name()).as_deref(),
            Some("localhost:5000/creto/cretoai-node:1a2b")
        );
        for wrong in ["cretoai-node", "localhost:5000/cretoai-node", "a:", ":b"] {
            assert_eq!(Image::parse(wrong), None, "{wrong}");
        }
    }
}
