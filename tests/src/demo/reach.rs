//! Who reaches whom: everybody pings everybody, both families.

use std::net::IpAddr;

use anyhow::Result;

use super::interrupt;
use super::screen::{Cell, Screen, Style};
use super::stage::{Place, Stage};
use crate::netns::Netns;
use crate::run::{finish, words};
use crate::underlay;

/// The first column, then one for each pod and the internet.
const WIDTHS: [usize; 8] = [9, 12, 12, 12, 12, 12, 12, 12];

/// Shows the table and returns how many pairs were tried.
pub(super) fn show(screen: &mut Screen, stage: &Stage<'_>) -> Result<usize> {
    screen.section("Who reaches whom");
    screen.say(
        "Every pod and every node pings every pod and a host outside the cluster, over IPv4 and IPv6. \
         Cells hold both round trips in milliseconds.",
    );
    screen.gap();
    let targets = targets(stage);
    headings(screen, stage, &targets);
    let mut tried = 0;
    for from in senders(stage) {
        let mut cells = vec![Cell::new(from.name, Style::Strong)];
        let mut lost = Vec::new();
        for to in &targets {
            if from.name == to.name {
                cells.push(Cell::new("·", Style::Dim));
                continue;
            }
            cells.push(pair(&from, to, &mut lost)?);
            tried += to.addresses.len();
        }
        screen.row(&WIDTHS, &cells);
        screen.check(lost.is_empty(), || {
            format!("{} lost pings to {}", from.name, lost.join(", "))
        });
    }
    Ok(tried)
}

fn headings(screen: &Screen, stage: &Stage<'_>, targets: &[Place<'_>]) {
    let mut nodes = vec![String::new()];
    for (index, actor) in stage.actors.iter().enumerate() {
        let first = index == 0 || stage.actors[index - 1].node != actor.node;
        nodes.push(if first {
            format!("node-{}", actor.node)
        } else {
            String::new()
        });
    }
    nodes.push("outside".to_owned());
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    screen.headings(&WIDTHS, &nodes);
    let mut cells = vec![Cell::new("from", Style::Dim)];
    cells.extend(
        targets
            .iter()
            .map(|place| Cell::new(place.name, Style::Strong)),
    );
    screen.row(&WIDTHS, &cells);
}

fn targets<'a>(stage: &'a Stage<'_>) -> Vec<Place<'a>> {
    let mut targets: Vec<Place<'a>> = stage.actors.iter().map(Place::from).collect();
    targets.push(Place {
        name: "internet",
        netns: &stage.cluster.underlay.internet,
        addresses: underlay::internet().to_vec(),
    });
    targets
}

fn senders<'a>(stage: &'a Stage<'_>) -> Vec<Place<'a>> {
    let mut senders: Vec<Place<'a>> = stage.actors.iter().map(Place::from).collect();
    senders.extend(stage.cluster.nodes.iter().map(|node| Place {
        name: &node.name,
        netns: &node.netns,
        addresses: Vec::new(),
    }));
    senders
}

/// One cell: the round trips to all addresses of one target. What gets lost is added to the list.
fn pair(from: &Place<'_>, to: &Place<'_>, lost: &mut Vec<String>) -> Result<Cell> {
    let mut texts = Vec::new();
    for address in &to.addresses {
        let time = ping(from.netns, *address)?;
        interrupt::check()?;
        if time.is_none() {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            lost.push(format!("{} over {family}", to.name));
        }
        texts.push(time.map_or_else(|| "lost".to_owned(), |time| format!("{time:.2}")));
    }
    let good = !texts.iter().any(|text| text == "lost");
    Ok(Cell::outcome(texts.join(" "), good))
}

/// The shortest of three round trips, milliseconds; none unless each came back.
fn ping(from: &Netns, to: IpAddr) -> Result<Option<f64>> {
    let line = format!("-n -q -c 3 -i 0.01 -W 1 {to}");
    let output = finish(from.command("ping").args(words(&line)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let all = text.contains(" 0% packet loss");
    Ok(shortest(&text).filter(|_| all))
}

/// From the last line of iputils' ping: `rtt min/avg/max/mdev = 0.036/0.041/0.050/0.006 ms`.
fn shortest(text: &str) -> Option<f64> {
    let (_, times) = text.split_once("min/avg/max/mdev = ")?;
    times.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_time_is_read() {
        let text = "3 packets transmitted, 3 received, 0% packet loss, time 21ms\n\
                    rtt min/avg/max/mdev = 0.036/0.041/0.050/0.006 ms\n";
        assert_eq!(shortest(text), Some(0.036));
        assert_eq!(shortest("no such host"), None);
    }
}
