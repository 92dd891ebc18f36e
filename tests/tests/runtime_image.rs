//! What is given away: the image, in containerd, and the tarball.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use oxlan_tests::binaries::{binary, unpacked};
use oxlan_tests::containerd::Containerd;
use oxlan_tests::run::{host, output};
use oxlan_tests::scope::Scope;
use oxlan_tests::skip::skip;

const NAME: &str = "localhost/oxlan:test";

/// What an image of programs that are not optimised may have, bytes; that is a third more than of others.
/// Of those that it builds itself `cargo xtask image` refuses to make one of more than 15 MB.
const MAX_IMAGE: u64 = 18_000_000;

/// Runs `cargo xtask` as it was built, with the programs that were built for these tests.
fn xtask(command: &str, to: &Path, more: &[&str]) -> Result<()> {
    let programs = binary("oxlan")?;
    let programs = programs.parent().context("no directory")?;
    let mut run = Command::new(binary("xtask")?);
    run.arg(command).arg("--from").arg(programs);
    run.arg("--output").arg(to).args(more);
    output(&mut run).map(drop)
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    Ok(std::fs::read(one)? == std::fs::read(other)?)
}

#[test]
fn runtime_image_runs_and_installs_the_plugin() -> Result<()> {
    if let Err(missing) = unpacked("usr/bin/containerd") {
        skip(&format!("{missing:#}"));
        return Ok(());
    }
    let scope = Scope::for_test()?;
    let (image, again) = (scope.dir().join("image.tar"), scope.dir().join("again.tar"));
    xtask("image", &image, &["--name", NAME])?;
    xtask("image", &again, &["--name", NAME])?;
    ensure!(
        same(&image, &again)?,
        "two images of the same programs differ"
    );
    std::fs::remove_file(&again)?;
    let size = std::fs::metadata(&image)?.len();
    ensure!(size <= MAX_IMAGE, "the image has {size} bytes");

    let node = scope.netns("node-1")?;
    let runtime = Containerd::start(&scope, &node, "node-1")?;
    runtime.ctr(&["image", "import", &image.to_string_lossy()])?;
    let said = runtime.ctr(&[
        "run",
        "--rm",
        NAME,
        "version",
        "/usr/local/bin/oxlan",
        "--version",
    ])?;
    ensure!(
        said.trim() == format!("oxlan {}", env!("CARGO_PKG_VERSION")),
        "{said}"
    );
    // What the agent runs is there with its libraries.
    let said = runtime.ctr(&["run", "--rm", NAME, "nft", "/usr/sbin/nft", "--version"])?;
    ensure!(said.starts_with("nftables v"), "{said}");
    for shell in ["/bin/sh", "/bin/bash", "/bin/busybox"] {
        let run = runtime.ctr(&["run", "--rm", NAME, "shell", shell, "-c", "true"]);
        ensure!(run.is_err(), "{shell} is in the image");
    }
    // As an init container does it.
    let host = scope.dir().join("host");
    for directory in ["bin", "net.d"] {
        std::fs::create_dir_all(host.join(directory))?;
    }
    let mount = format!(
        "type=bind,src={},dst=/host,options=rbind:rw",
        host.display()
    );
    let install = |container: &str, more: &[&str]| {
        let all = [
            &["run", "--rm", "--mount", &mount, NAME, container],
            &[
                "/usr/local/bin/oxlan",
                "install-cni",
                "--bin-dir",
                "/host/bin",
            ][..],
            &["--conf-dir", "/host/net.d"],
            more,
        ];
        runtime.ctr(&all.concat())
    };
    install("install", &[])?;
    let plugin = host.join("bin/oxlan-cni");
    let mut version = Command::new(&plugin);
    let said = output(version.env("CNI_COMMAND", "VERSION"))?;
    ensure!(said.contains("supportedVersions"), "{said}");
    ensure!(host.join("net.d/10-oxlan.conflist").is_file());
    let said = install("again", &[])?;
    ensure!(said.contains("nothing to do"), "{said}");
    install("remove", &["--remove"])?;
    ensure!(!plugin.exists() && !host.join("net.d/10-oxlan.conflist").exists());
    Ok(())
}

#[test]
fn runtime_tarball_unpacks_and_its_programs_run() -> Result<()> {
    let scope = Scope::for_test()?;
    let (one, two) = (
        scope.dir().join("one.tar.gz"),
        scope.dir().join("two.tar.gz"),
    );
    xtask("dist", &one, &[])?;
    xtask("dist", &two, &[])?;
    ensure!(
        same(&one, &two)?,
        "two tarballs of the same programs differ"
    );
    host(&format!(
        "tar -xzf {} -C {}",
        one.display(),
        scope.dir().display()
    ))?;
    let version = env!("CARGO_PKG_VERSION");
    let root = format!("oxlan-{version}-{}-linux", std::env::consts::ARCH);
    let root = scope.dir().join(root);
    let said = output(Command::new(root.join("bin/oxlan")).arg("--version"))?;
    ensure!(said.trim() == format!("oxlan {version}"), "{said}");
    let mut plugin = Command::new(root.join("libexec/cni/oxlan-cni"));
    let said = output(plugin.env("CNI_COMMAND", "VERSION"))?;
    ensure!(said.contains("supportedVersions"), "{said}");
    for (file, text) in [
        ("lib/systemd/system/oxlan-agent.service", "ExecStart="),
        ("etc/cni/net.d/10-oxlan.conflist", "oxlan-cni"),
        ("etc/oxlan/cluster.toml", "[network]"),
        ("share/bash-completion/completions/oxlan", "install-cni"),
        ("share/zsh/site-functions/_oxlan", "install-cni"),
        ("share/fish/vendor_completions.d/oxlan.fish", "install-cni"),
        ("share/man/man1/oxlan.1", "oxlan"),
        ("share/man/man1/oxlan-agent.1", "etcd"),
        ("LICENSE-MIT", "MIT"),
    ] {
        let contents = std::fs::read_to_string(root.join(file)).context(file)?;
        ensure!(contents.contains(text), "{file} has no {text}");
    }
    every_link_leads_to_a_file(&root)
}

/// The documents refer to each other, and to files of deploy/ by where they are in the repository.
fn every_link_leads_to_a_file(root: &Path) -> Result<()> {
    let docs = std::fs::read_dir(root.join("docs"))?;
    let docs: Vec<_> = docs.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    ensure!(docs.len() > 10, "only {docs:?}");
    for document in docs.iter().chain([&root.join("README.md")]) {
        let text = std::fs::read_to_string(document)?;
        let links = text.split("](").skip(1);
        let links = links.filter_map(|rest| rest.split([')', '#']).next());
        for link in links.filter(|link| link.ends_with(".md")) {
            let target = document.parent().unwrap_or(root).join(link);
            ensure!(
                target.is_file(),
                "{} leads to {link}, which is not in the tarball",
                document.display()
            );
        }
    }
    Ok(())
}
