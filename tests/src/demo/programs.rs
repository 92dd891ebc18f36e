//! Ordinary programs in pods: an HTTP server with curl, and iperf3.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::Value;

use super::interrupt;
use super::screen::{Cell, Screen, Style};
use super::servers;
use super::stage::Stage;
use crate::netns::Netns;
use crate::run::output;
use crate::underlay;

const WIDTHS: [usize; 3] = [9, 32, 28];

/// Starts the servers and has clients of all kinds use them.
pub(super) fn show(screen: &mut Screen, stage: &Stage<'_>) -> Result<()> {
    screen.section("Programs that know nothing of Oxlan");
    screen.say(
        "An HTTP server runs in two pods and on the internet's host, and answers with the address that it \
         sees: pods see each other's own addresses, the world outside sees the node's.",
    );
    screen.gap();
    servers::start_all(stage)?;
    screen.headings(&WIDTHS, &["program", "from → to", "asked for", "answer"]);
    for request in requests(stage)? {
        request.show(screen)?;
    }
    screen.gap();
    throughput(screen, stage)
}

/// A call of curl, and the source address that the server must see.
struct Request<'a> {
    path: String,
    from: &'a Netns,
    to: IpAddr,
    seen: IpAddr,
}

fn requests<'a>(stage: &'a Stage<'_>) -> Result<Vec<Request<'a>>> {
    let client = &stage.actor("client")?.pod;
    let cache = &stage.actor("cache")?.pod;
    let web = &stage.actor("web")?.pod;
    let (one, two) = (stage.node(1)?, stage.node(2)?);
    let request = |path: &str, from, to: IpAddr, seen: IpAddr| Request {
        path: path.to_owned(),
        from,
        to,
        seen,
    };
    let netns = &client.netns;
    let own = (client.ipv4()?.into(), client.ipv6()?.into());
    Ok(vec![
        request(
            "client → cache, same node",
            netns,
            cache.ipv4()?.into(),
            own.0,
        ),
        request(
            "client → cache, same node",
            netns,
            cache.ipv6()?.into(),
            own.1,
        ),
        request("client → web, other node", netns, web.ipv4()?.into(), own.0),
        request("client → web, other node", netns, web.ipv6()?.into(), own.1),
        request(
            "node-1 → web, other node",
            &one.netns,
            web.ipv4()?.into(),
            super::stage::overlay_v4(one)?,
        ),
        request(
            "node-2 → web, own pod",
            &two.netns,
            web.ipv4()?.into(),
            super::stage::overlay_v4(two)?,
        ),
        request(
            "client → internet",
            netns,
            underlay::INTERNET_V4.into(),
            one.underlay.into(),
        ),
        request(
            "client → internet",
            netns,
            underlay::INTERNET_V6.into(),
            underlay::node_v6(one.number).into(),
        ),
    ])
}

impl Request<'_> {
    fn show(&self, screen: &mut Screen) -> Result<()> {
        let answer = fetch(self.from, self.to);
        interrupt::check()?;
        let text = match &answer {
            Ok(body) => body.clone(),
            Err(_) => "no answer".to_owned(),
        };
        let good = text.ends_with(&format!(" sees {}", self.seen));
        let url = url(self.to);
        let cells = [
            Cell::new("curl", Style::Strong),
            self.path.as_str().into(),
            url.as_str().into(),
            Cell::outcome(text, good),
        ];
        screen.row(&WIDTHS, &cells);
        match answer {
            Err(error) => screen.failed(format!("curl {} ({url}): {error:#}", self.path)),
            Ok(body) if !good => screen.failed(format!(
                "curl {} ({url}): `{body}`, but it should see {}",
                self.path, self.seen
            )),
            Ok(_) => {}
        }
        Ok(())
    }
}

fn url(to: IpAddr) -> String {
    match to {
        IpAddr::V4(v4) => format!("http://{v4}/"),
        IpAddr::V6(v6) => format!("http://[{v6}]/"),
    }
}

/// What curl gets from the HTTP server at this address.
pub(super) fn fetch(from: &Netns, to: IpAddr) -> Result<String> {
    let mut command = from.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
    command.args(["--max-time", "3", &url(to)]);
    Ok(output(&mut command)?.trim().to_owned())
}

fn throughput(screen: &mut Screen, stage: &Stage<'_>) -> Result<()> {
    screen.headings(
        &WIDTHS,
        &["program", "from → to", "one TCP stream to", "throughput"],
    );
    for (path, from, to) in streams(stage)? {
        let measured = iperf(from, to);
        interrupt::check()?;
        let speed = match &measured {
            Ok(bits) => format!("{:.1} Gbit/s", bits / 1e9),
            Err(_) => "failed".to_owned(),
        };
        let cells = [
            Cell::new("iperf3", Style::Strong),
            path.into(),
            to.to_string().into(),
            Cell::outcome(speed, measured.is_ok()),
        ];
        screen.row(&WIDTHS, &cells);
        if let Err(error) = measured {
            screen.failed(format!("iperf3 {path} ({to}): {error:#}"));
        }
    }
    Ok(())
}

/// Between pods, and between two nodes themselves, which is the most that their pods could get.
fn streams<'a>(stage: &'a Stage<'_>) -> Result<Vec<(&'static str, &'a Netns, IpAddr)>> {
    let client = &stage.actor("client")?.pod.netns;
    let mut streams = Vec::new();
    for (path, name) in [
        ("client → cache, same node", "cache"),
        ("client → web, other node", "web"),
    ] {
        let addresses = stage.actor(name)?.pod.addresses();
        streams.extend(addresses.map(|address| (path, client, address)));
    }
    let (one, two) = (stage.node(1)?, stage.node(2)?);
    streams.push((
        "node-1 → node-2, without Oxlan",
        &one.netns,
        two.underlay.into(),
    ));
    Ok(streams)
}

/// Bits per second that arrive within a second.
fn iperf(from: &Netns, to: IpAddr) -> Result<f64> {
    let text = from.run(&format!(
        "iperf3 --json --time 1 --connect-timeout 3000 --client {to}"
    ))?;
    let report: Value = serde_json::from_str(&text).context("iperf3's report is no JSON")?;
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .filter(|bits| *bits > 0.0)
        .context("nothing arrived")
}
