//! What `--keep` prints: commands to look around, to be copied as they are.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::screen::{Cell, Screen, Style};
use super::stage::Stage;
use crate::binaries::binary;
use crate::netns::Netns;

/// Command lines under a title.
#[derive(Debug)]
pub(super) struct Group {
    title: &'static str,
    lines: Vec<String>,
}

/// Commands for what is on this stage.
pub(super) fn groups(stage: &Stage<'_>) -> Result<Vec<Group>> {
    let node = stage.node(1)?;
    let web = &stage.actor("web")?.pod;
    let client = inside(&stage.actor("client")?.pod.netns);
    let switch = inside(&stage.cluster.underlay.switch);
    let oxlan = short(&binary("oxlan")?);
    let (oxlan, run) = (oxlan.display(), node.dirs.run.display());
    let pins = node.dirs.bpf.display();
    let views = ["status", "pods", "nodes", "routes", "drops"];
    let maps = ["pods", "routes", "vteps", "config"];
    let group = |title, lines| Group { title, lines };
    Ok(vec![
        group(
            "What node-1 knows and does; the others are node-2 and node-3",
            views
                .map(|view| format!("{oxlan} {view} --run-dir {run}"))
                .to_vec(),
        ),
        group(
            "The maps that its programs read, and which program is at which device",
            maps.map(|map| format!("bpftool map dump pinned {pins}/maps/{map}"))
                .into_iter()
                .chain([format!("ls {pins}/links")])
                .collect(),
        ),
        group(
            "From the pod client to the pod web",
            vec![
                format!("{client} ping {}", web.ipv4()?),
                format!("{client} ping {}", web.ipv6()?),
                format!("{client} curl http://{}/", web.ipv4()?),
                format!("{client} iperf3 -c {}", web.ipv4()?),
            ],
        ),
        group(
            "What is on the underlay meanwhile",
            vec![format!("{switch} tcpdump -n -i br0 -T vxlan udp port 8472")],
        ),
        group(
            "The agent's log, and the file that all agents watch",
            vec![
                format!("tail -f {}", node.dirs.log.display()),
                format!("cat {}", stage.cluster.file().display()),
            ],
        ),
    ])
}

/// Prints the commands.
pub(super) fn show(screen: &Screen, groups: &[Group]) {
    // Started by sudo, so the person at the terminal needs it, too.
    let sudo = std::env::var_os("SUDO_USER").map_or("", |_| "sudo ");
    screen.title("Look around");
    screen.say("Everything stays as it is until `cargo xtask demo --down`.");
    for group in groups {
        screen.gap();
        screen.row(&[], &[Cell::new(group.title, Style::Strong)]);
        for line in &group.lines {
            screen.row(&[], &[format!("  {sudo}{line}").into()]);
        }
    }
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
