//! An agent is killed under traffic and started again: nothing may be lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::interrupt;
use super::programs::fetch;
use super::screen::{Cell, Screen, Style};
use super::stage::{Stage, milliseconds};
use crate::node::Node;
use crate::traffic::End;
use crate::traffic::udp_stream::{Report, UdpStream};

const WIDTHS: [usize; 5] = [36, 9, 9, 11, 13];

/// Time between two datagrams of a stream.
const INTERVAL: Duration = Duration::from_millis(1);

/// Datagrams of each stream before the kill, without an agent, and after the new one's start.
const EACH: u64 = 400;

/// A stream with what it shows.
struct Watched {
    path: &'static str,
    stream: UdpStream,
}

/// Kills the agent of the first node, starts it again and counts; returns the datagrams sent.
pub(super) fn show(screen: &mut Screen, stage: &Stage<'_>) -> Result<u64> {
    let node = stage.node(1)?;
    screen.section("The agent dies, the pods talk on");
    screen.say(
        "Three streams of numbered datagrams, one each millisecond, go from, to and within node-1. Its agent \
         gets SIGKILL and is started again. Programs and maps are pinned in the kernel, so nothing is lost.",
    );
    screen.gap();
    let streams = start(stage)?;
    wait(&streams)?;
    outage(screen, stage, node, &streams)?;
    screen.gap();
    screen.headings(
        &WIDTHS,
        &["stream", "sent", "lost", "doubled", "reordered", "verdict"],
    );
    let mut sent = 0;
    for watched in streams {
        let report = watched.stream.finish()?;
        sent += report.sent;
        show_report(screen, watched.path, &report);
    }
    Ok(sent)
}

fn start(stage: &Stage<'_>) -> Result<Vec<Watched>> {
    let mut streams = Vec::new();
    for (path, from, to, family) in [
        ("client → web, other node, IPv4", "client", "web", 0),
        ("db → client, other node, IPv6", "db", "client", 1),
        ("client → cache, same node, IPv4", "client", "cache", 0),
    ] {
        let end = |name: &str| {
            let pod = &stage.actor(name)?.pod;
            let address = pod.addresses().nth(family).context("a missing family")?;
            Ok::<_, anyhow::Error>(End::new(&pod.netns, address))
        };
        let stream = UdpStream::start(end(from)?, end(to)?, INTERVAL)
            .with_context(|| format!("no stream {path}"))?;
        streams.push(Watched { path, stream });
    }
    Ok(streams)
}

fn wait(streams: &[Watched]) -> Result<()> {
    for watched in streams {
        interrupt::check()?;
        let more = watched.stream.wait_for_more(EACH);
        more.with_context(|| format!("the stream {} stopped", watched.path))?;
    }
    Ok(())
}

/// Kills the agent, shows what works without one, and starts another.
fn outage(screen: &mut Screen, stage: &Stage<'_>, node: &Node, streams: &[Watched]) -> Result<()> {
    let old = node.agent_pid()?;
    let begin = Instant::now();
    node.kill_agent()?;
    step(
        screen,
        "killed",
        &format!("agent of node-1, process {old}, with SIGKILL"),
        true,
    );
    wait(streams)?;
    let (client, web) = (&stage.actor("client")?.pod, stage.actor("web")?.pod.ipv4()?);
    let answer = fetch(&client.netns, web.into());
    interrupt::check()?;
    let text = answer.as_deref().unwrap_or("no answer");
    let good = screen.check(answer.is_ok(), || {
        format!("curl client → web while no agent ran: {answer:?}")
    });
    step(
        screen,
        "meanwhile",
        &format!("curl http://{web}/ in client: {text}"),
        good,
    );
    let start = Instant::now();
    node.start_agent()?;
    let text = format!(
        "process {}, ready in {}, {} after the kill",
        node.agent_pid()?,
        milliseconds(start.elapsed()),
        milliseconds(begin.elapsed())
    );
    step(screen, "started", &text, true);
    let pods = node.oxlan_json("pods")?.as_array().map_or(0, Vec::len);
    let expected = stage
        .actors
        .iter()
        .filter(|actor| actor.node == node.number)
        .count();
    let good = screen.check(pods == expected, || {
        format!("the new agent of node-1 knows {pods} pods instead of {expected}")
    });
    step(screen, "knows", &format!("its {pods} pods again"), good);
    wait(streams)
}

fn step(screen: &Screen, what: &str, text: &str, good: bool) {
    let style = if good { Style::Plain } else { Style::Bad };
    let cells = [Cell::new(what, Style::Strong), Cell::new(text, style)];
    screen.row(&[12], &cells);
}

fn show_report(screen: &mut Screen, path: &str, report: &Report) {
    // Less than was waited for cannot be, so that a stream that never ran is no success.
    let perfect = report.expect_perfect(3 * EACH);
    let lost = u64::try_from(report.lost.len()).unwrap_or(u64::MAX) + report.refused;
    let verdict = if perfect.is_ok() {
        "perfect"
    } else {
        "NOT perfect"
    };
    let cells = [
        path.into(),
        report.sent.to_string().into(),
        lost.to_string().into(),
        report.doubled.to_string().into(),
        report.reordered.to_string().into(),
        Cell::outcome(verdict, perfect.is_ok()),
    ];
    screen.row(&WIDTHS, &cells);
    if let Err(error) = perfect {
        screen.failed(format!("{path}, agent killed: {error:#}"));
    }
}
