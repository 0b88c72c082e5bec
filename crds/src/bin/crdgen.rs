//! Writes the generated YAML of the API, or checks that what is committed is fresh.

use anyhow::{Context, Result, bail};
use clap::Parser;
use std::{fs, path::PathBuf};

/// Writes or checks `crds/yaml` and `charts/creto-crds/templates`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Write the files.
    #[arg(long, conflicts_with = "check", required_unless_present = "check")]
    write: bool,
    /// Fail if a file is stale.
    #[arg(long)]
    check: bool,
    /// Root of the repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let files = [
        ("crds/yaml/cretoclusters.yaml", cretoai_crds::crd_yaml()?),
        ("charts/creto-crds/templates/cretoclusters.yaml", cretoai_crds::chart_yaml()?),
    ];
    for (path, fresh) in files {
        let full = arguments.root.join(path);
        if arguments.write {
            fs::create_dir_all(full.parent().context("the path has no folder")?)?;
            fs::write(&full, &fresh).with_context(|| format!("cannot write {}", full.display()))?;
            println!("wrote {path} ({} bytes)", fresh.len());
        } else {
            let committed = fs::read_to_string(&full)
                .with_context(|| format!("cannot read {path}; run `make crds`"))?;
            if committed != fresh {
                bail!("{path} is stale; run `make crds` and commit it");
            }
            println!("{path} is fresh ({} bytes)", fresh.len());
        }
    }
    Ok(())
}
