//! `oxlan status`.

use std::net::IpAddr;

use super::Ask;
use super::ask::ask;
use super::output::{self, Format};
use crate::api::types::{Device, Health, Status, Xdp};

/// Options of `oxlan status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    ask: Ask,
    /// Show instead what this kernel can do beyond what every kernel has to, and what for
    #[arg(long)]
    features: bool,
}

/// Prints the node in one view, or the kernel's features.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let answered = ask::<Status>(&options.ask, "/v1/status")?;
    output::print(&match options.ask.output {
        Format::Json => output::pretty(&answered.json),
        Format::Table if options.features => features(&answered.value),
        Format::Table => render(&answered.value),
    })
}

/// A row for each feature: what is done with it, or why it is missing and what is done instead.
fn features(status: &Status) -> String {
    let mut table = output::table(&["FEATURE", "HERE", "WHAT FOR"], 2);
    for feature in &status.features {
        let missing = || {
            let refusal = feature.refusal.as_deref().unwrap_or("it is missing");
            format!("{} ({refusal})", feature.without)
        };
        let (state, means) = if feature.available {
            ("yes", feature.enables.clone())
        } else {
            ("no", missing())
        };
        table.add_row([feature.name.as_str(), state, means.as_str()]);
    }
    format!("Kernel {}\n\n{}", status.kernel, output::render(&table))
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
    use crate::api::types::FeatureRow;

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

    #[test]
    fn features_say_what_they_are_for_or_why_they_are_missing() {
        let row = |name: &str, refusal: Option<&str>| FeatureRow {
            name: name.into(),
            available: refusal.is_none(),
            enables: "links are used".into(),
            without: "filters are used".into(),
            refusal: refusal.map(str::to_owned),
        };
        let status = Status {
            kernel: "6.1.0".into(),
            features: vec![row("a", None), row("b", Some("unknown"))],
            ..Status::default()
        };
        assert_eq!(
            features(&status),
            "Kernel 6.1.0\n\n\
             FEATURE  HERE  WHAT FOR\n\
             a        yes   links are used\n\
             b        no    filters are used (unknown)\n"
        );
    }
}
