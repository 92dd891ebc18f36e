//! An image for containers, made of one program: busybox, statically linked.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::binaries::unpacked;
use crate::run::output;

/// The image's name.
pub const IMAGE: &str = "localhost/oxlan/busybox:test";

/// Size of `/www/large`, bytes: enough for TCP to fill whole GSO packets.
pub const LARGE: u64 = 3_000_000;

/// The busybox programs that containers run.
const PROGRAMS: [&str; 10] = [
    "cat",
    "httpd",
    "ip",
    "ping",
    "sh",
    "sha256sum",
    "sleep",
    "timeout",
    "wc",
    "wget",
];

/// Answers an HTTP request with the address that it came from.
const WHO_ASKS: &str =
    "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' \"$REMOTE_ADDR\"\n";

/// Writes the image as an archive in Docker's form and returns the archive's path.
///
/// # Errors
///
/// If busybox was not unpacked, or a file cannot be written.
pub fn build(directory: &Path) -> Result<PathBuf> {
    let work = directory.join("image");
    let layer = work.join("layer");
    fill(&layer).with_context(|| format!("cannot write {}", layer.display()))?;
    let archive = work.join("layer.tar");
    tar(&layer, &archive, &["."])?;
    write_manifests(&work, &digest(&archive)?)?;
    let image = directory.join("image.tar");
    tar(
        &work,
        &image,
        &["manifest.json", "config.json", "layer.tar"],
    )?;
    Ok(image)
}

fn fill(layer: &Path) -> Result<()> {
    let bin = layer.join("bin");
    let www = layer.join("www");
    let scripts = www.join("cgi-bin");
    for directory in [&bin, &scripts] {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::copy(unpacked("bin/busybox")?, bin.join("busybox"))?;
    for program in PROGRAMS {
        symlink("busybox", bin.join(program))?;
    }
    let script = scripts.join("who-asks");
    std::fs::write(&script, WHO_ASKS)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let large: Vec<u8> = (0u8..=250).cycle().take(usize::try_from(LARGE)?).collect();
    std::fs::write(www.join("large"), large)?;
    Ok(())
}

fn write_manifests(work: &Path, digest: &str) -> Result<()> {
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    std::fs::write(work.join("config.json"), config.to_string())?;
    std::fs::write(work.join("manifest.json"), manifest.to_string())?;
    Ok(())
}

/// The machine's architecture in Go's words, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(directory: &Path, archive: &Path, members: &[&str]) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .arg("--directory")
        .arg(directory)
        .args(["--owner=0", "--group=0", "--numeric-owner"]);
    command
        .args(["--create", "--file"])
        .arg(archive)
        .args(members);
    output(&mut command).map(drop)
}

fn digest(file: &Path) -> Result<String> {
    let text = output(Command::new("sha256sum").arg(file))?;
    let digest = text
        .split_whitespace()
        .next()
        .context("sha256sum printed nothing")?;
    Ok(digest.to_owned())
}
