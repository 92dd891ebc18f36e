//! `oxlan status`.

use std::net::IpAddr;

use super::Ask;
use super::ask::ask;
use super::output::{self, Format};
use crate::api::types::{Device, Health, Status, Xdp};

/// Prints the node in one view.
pub(super) fn run(options: &Ask) -> anyhow::Result<()> {
    let answered = ask::<Status>(options, "/v1/status")?;
    output::print(&match options.output {
        Format::Json => output::pretty(&answered.json),
        Format::Table => render(&answered.value),
    })
}

fn render(status: &Status) -> String {
    let agent = format!(
        "version {}, process {}, up {}",
        status.version,
        status.pid,
        output::duration(status.uptime)
    );
    let wire = format!(
        "mode {}; VXLAN with VNI {}, UDP port {}, DSCP {}",
        status.mode, status.vni, status.port, status.dscp
    );
    let cluster = format!(
        "{} nodes from {}, pods in {}",
        status.nodes,
        status.source,
        output::joined(&status.network, ", ")
    );
    let pods = format!(
        "{} attached, from {}, MTU {}",
        status.pods,
        output::joined(&status.pod_cidrs, ", "),
        status.pod_mtu
    );
    let datapath = format!(
        "{}, pinned in {}, kernel {}",
        status.attach, status.bpf_dir, status.kernel
    );
    let underlay: Vec<IpAddr> = status.vteps.iter().map(|v| v.underlay).collect();
    let rows = [
        ("Node", status.node.clone()),
        ("Health", health(&status.health)),
        ("Agent", agent),
        ("Cluster", cluster),
        ("Pods", pods),
        ("Underlay", output::joined(&underlay, ", ")),
        ("Uplink", uplinks(status)),
        ("XDP", xdp(status)),
        (
            "Overlay",
            format!("{}, VTEP {}", device(&status.overlay), status.vtep_mac),
        ),
        ("Wire", wire),
        ("Datapath", datapath),
        (
            "Repairs",
            format!("{} since the agent's start", status.repairs),
        ),
    ];
    let mut text = String::new();
    let problems = status
        .problems
        .iter()
        .map(|problem| ("Problem", problem.clone()));
    let notes = status.notes.iter().map(|note| ("Note", note.clone()));
    for (name, value) in rows.into_iter().chain(problems).chain(notes) {
        text.push_str(&wrapped(name, &value));
    }
    text
}

/// `Name      value`, with long values on several lines.
fn wrapped(name: &str, value: &str) -> String {
    const INDENT: usize = 10;
    let mut lines = vec![String::new()];
    for word in value.split(' ') {
        let line = lines.last().map_or(0, String::len);
        if line > 0 && INDENT + line + 1 + word.chars().count() > output::WIDTH.into() {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    let names = std::iter::once(name).chain(std::iter::repeat(""));
    names
        .zip(lines)
        .map(|(name, line)| format!("{name:INDENT$}{line}\n"))
        .collect()
}

fn health(health: &Health) -> String {
    match health {
        Health::Ready => "ready".into(),
        Health::Unavailable(reason) => format!("no pods can be attached: {reason}"),
        Health::Limited(reason) => format!("pods may be cut off: {reason}"),
    }
}

fn xdp(status: &Status) -> String {
    let row = |xdp: &Xdp| {
        let used = if xdp.used { "on" } else { "not on" };
        format!("{used} {} ({})", xdp.device, xdp.reason)
    };
    let rows: Vec<String> = status.xdp.iter().map(row).collect();
    if rows.is_empty() {
        return "no uplink".into();
    }
    rows.join("; ")
}

fn uplinks(status: &Status) -> String {
    match status.uplinks.as_slice() {
        [] => device(&status.uplink),
        all => all.iter().map(device).collect::<Vec<_>>().join("; "),
    }
}

fn device(device: &Device) -> String {
    let Device { name, ifindex, mtu } = device;
    if *ifindex == 0 {
        format!("{name}, which does not exist now")
    } else {
        format!("{name} (index {ifindex}), MTU {mtu}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits_and_tells_problems() {
        let status = Status {
            node: "node-a".into(),
            problems: vec!["word ".repeat(40).trim().into()],
            health: Health::Limited("the uplink is down".into()),
            ..Status::default()
        };
        let text = render(&status);
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert!(
            text.contains("pods may be cut off: the uplink is down"),
            "{text}"
        );
        assert_eq!(text.matches("word").count(), 40);
    }
}
