//! What `--keep` prints: commands to look around.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::screen::{Cell, Screen, Style};
use super::stage::Stage;
use crate::binaries::binary;
use crate::netns::Netns;

/// Prints command lines that can be copied.
pub(super) fn show(screen: &Screen, stage: &Stage<'_>) -> Result<()> {
    let node = stage.node(1)?;
    let client = &stage.actor("client")?.pod.netns;
    let web = &stage.actor("web")?.pod;
    let oxlan = short(&binary("oxlan")?);
    let (oxlan, run) = (oxlan.display(), node.dirs.run.display());
    let maps = node.dirs.bpf.join("maps");
    let switch = inside(&stage.cluster.underlay.switch);
    screen.title("Look around");
    screen.say(
        "Everything stays until `cargo xtask demo --down`. The other nodes are node-2 and node-3.",
    );
    group(screen, "What a node knows and does");
    for view in ["status", "pods", "nodes", "routes", "drops"] {
        command(screen, &format!("{oxlan} {view} --run-dir {run}"));
    }
    group(screen, "The maps that the programs read");
    for map in ["pods", "routes", "vteps", "config"] {
        command(
            screen,
            &format!("bpftool map dump pinned {}", maps.join(map).display()),
        );
    }
    group(screen, "In the pod client");
    let client = inside(client);
    command(screen, &format!("{client} ping {}", web.ipv4()?));
    command(screen, &format!("{client} ping {}", web.ipv6()?));
    command(screen, &format!("{client} curl http://{}/", web.ipv4()?));
    command(screen, &format!("{client} iperf3 -c {}", web.ipv4()?));
    group(screen, "On the node node-1, and on the underlay");
    command(screen, &format!("{} bpftool net", inside(&node.netns)));
    command(
        screen,
        &format!("{switch} tcpdump -n -i br0 -T vxlan udp port 8472"),
    );
    group(screen, "What the agent says, and the file that it watches");
    command(screen, &format!("tail -f {}", node.dirs.log.display()));
    command(screen, &format!("cat {}", stage.cluster.file().display()));
    Ok(())
}

fn group(screen: &Screen, title: &str) {
    screen.gap();
    screen.row(&[], &[Cell::new(title, Style::Strong)]);
}

fn command(screen: &Screen, line: &str) {
    // Started by sudo, so the person at the terminal needs it, too.
    let sudo = if std::env::var_os("SUDO_USER").is_some() {
        "sudo "
    } else {
        ""
    };
    screen.row(&[], &[format!("  {sudo}{line}").into()]);
}

/// What starts a program in a namespace. `ip netns exec` would hide the pinned maps.
fn inside(netns: &Netns) -> String {
    format!("nsenter --net={}", netns.path().display())
}

/// A path relative to the current directory if it is below it.
fn short(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}
