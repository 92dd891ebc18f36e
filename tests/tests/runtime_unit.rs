//! The systemd unit for plain hosts, as systemd itself reads it.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use oxlan_tests::binaries::binary;
use oxlan_tests::run::finish;
use oxlan_tests::scope::Scope;
use oxlan_tests::skip::skip;

const UNIT: &str = include_str!("../../deploy/oxlan-agent.service");

/// Has systemd check a unit alone, without manual pages, which come with the tarball.
fn verify(directory: &Path, text: &str) -> Result<Output> {
    let unit = directory.join("oxlan-agent.service");
    std::fs::write(&unit, text).with_context(|| format!("cannot write {}", unit.display()))?;
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    finish(command.arg(unit))
}

#[test]
fn runtime_unit_is_understood_by_systemd() -> Result<()> {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        skip("there is no systemd-analyze here; Debian has it in the package systemd");
        return Ok(());
    }
    let scope = Scope::for_test()?;
    // The program has to be there.
    let program = binary("oxlan")?.display().to_string();
    let unit = UNIT.replace("/usr/local/bin/oxlan", &program);
    ensure!(unit.contains(&program), "the unit starts another program");
    let checked = verify(&scope.dir(), &unit)?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(checked.status.success() && said.is_empty(), "{said}");
    // It is strict enough to notice a word that it does not know.
    let wrong = unit.replace("LockPersonality=", "LockPersonalities=");
    let checked = verify(&scope.dir(), &wrong)?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(said.contains("LockPersonalities"), "not noticed: {said}");
    Ok(())
}
